"""``taskgate protos``: the folder has all that compilers need, wherever taskgate is installed; others are kept."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from support.in_process import asked

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
OURS = sorted(f"taskgate/v1/{path.name}" for path in (ROOT / "protos/taskgate/v1").glob("*.proto"))

# Where each language's compiler puts Task, by the options of our files, and the words that declare it there.
GENERATED = {
    "python": ("taskgate/v1/task_pb2.py", "TaskProto"),
    "java": ("com/taskgate/v1/Task.java", "package com.taskgate.v1;"),
    "kotlin": ("com/taskgate/v1/TaskKt.kt", "package com.taskgate.v1"),
    "cpp": ("taskgate/v1/task.pb.h", "namespace taskgate"),
    "csharp": ("Task.cs", "namespace Taskgate.V1"),
    "objc": ("taskgate/v1/Task.pbobjc.h", "@interface TGTTask :"),
    "php": ("Taskgate/V1/Task.php", "namespace Taskgate\\V1;"),
    "ruby": ("taskgate/v1/task_pb.rb", "module Taskgate"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written = tmp_path / "new" / "protos"
    done = asked("protos", str(written))
    assert done.exit_code == 0
    assert str(written) in done.stdout
    return written


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_import_is_in_the_folder(folder: Path) -> None:
    """Ours unchanged, Google's that they import, and what clients need for the details of errors."""
    written = files(folder)
    for name in OURS:
        assert written[name] == (ROOT / "protos" / name).read_bytes()
    assert "google/rpc/error_details.proto" in written
    for name, content in written.items():
        for imported in re.findall(rb'^import "([^"]+)";', content, re.MULTILINE):
            assert imported.decode() in written, f"{imported!r}, which {name} imports"


def test_only_a_folder_of_its_own_is_written_into(folder: Path, tmp_path: Path) -> None:
    """Again into the same folder renews it; one with other files, or a file, is refused and stays as it is."""
    before = files(folder)
    (folder / OURS[0]).write_text("an older version")
    assert asked("protos", str(folder)).exit_code == 0
    assert files(folder) == before
    (folder / "taskgate" / "notes.txt").write_text("mine")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "buf.yaml").write_text("version: v2\n")
    (tmp_path / "file").write_text("mine")
    for target, says in ((folder, "notes.txt"), (foreign, "buf.yaml"), (tmp_path / "file", "Not a directory")):
        done = asked("protos", str(target))
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert says in done.stderr
    assert files(foreign) == {"buf.yaml": b"version: v2\n"}
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.needs("protoc and buf")
class TestCompilers:
    def test_protoc_compiles_it_for_every_language_under_the_names_of_our_options(
        self, folder: Path, tmp_path: Path
    ) -> None:
        """With the folder as the only import path. Objective-C renames ``description`` alone; Rust is not made here.

        prost escapes Rust's keywords: ``WorkflowTask.type`` is ``r#type`` there.
        """
        outs = {language: tmp_path / language for language in GENERATED}
        for out in outs.values():
            out.mkdir()
        options = [f"--{language}_out={out}" for language, out in outs.items()]
        subprocess.run([BIN / "protoc", f"-I{folder}", *options, *OURS], check=True, timeout=60)
        for language, (name, declares) in GENERATED.items():
            assert declares in (outs[language] / name).read_text(), language
        assert not list(outs["java"].rglob("*OuterClass*"))
        header = "".join(path.read_text() for path in outs["objc"].rglob("*.h"))
        changed = {name.lower().removeprefix("has") for name in re.findall(r"([A-Za-z]+)_p\b", header)}
        assert changed == {"description"}

    def test_a_protoc_that_has_no_files_of_its_own_compiles_it_all(self, folder: Path, tmp_path: Path) -> None:
        """That of grpcio-tools; ``python -m grpc_tools.protoc`` would add protobuf's files to the import path."""
        script = "import sys; from grpc_tools import protoc; sys.exit(protoc.main(sys.argv))"
        everything = [name for name in files(folder) if name.endswith(".proto")]
        out = f"--python_out={tmp_path}"
        subprocess.run([sys.executable, "-c", script, f"-I{folder}", out, *everything], check=True, timeout=60)

    def test_buf_builds_and_lints_it_as_it_is(self, folder: Path) -> None:
        for command in ("build", "lint"):
            done = subprocess.run([BIN / "buf", command], cwd=folder, capture_output=True, timeout=60, check=False)
            assert (done.returncode, done.stdout + done.stderr) == (0, b"")

    def test_an_installed_wheel_writes_the_same(self, folder: Path, tmp_path: Path) -> None:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, timeout=110)
        (wheel,) = tmp_path.glob("*.whl")
        installed = tmp_path / "site"
        ZipFile(wheel).extractall(installed)
        written = tmp_path / "from-wheel"
        subprocess.run(
            [sys.executable, "-m", "taskgate", "protos", str(written)],
            env={**os.environ, "PYTHONPATH": str(installed)},
            cwd=tmp_path,
            check=True,
            timeout=60,
        )
        assert files(written) == files(folder)


@pytest.mark.needs("protoc and buf")
def test_a_fresh_clone_compiles_with_buf_and_protoc_before_anything_is_generated(tmp_path: Path) -> None:
    """By the commands of docs/languages.md, without ``build`` and an environment."""
    for name in ("protos", "third_party"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / "buf.yaml", tmp_path / "buf.yaml")
    (tmp_path / "stubs").mkdir()
    paths = ["-I", "protos", "-I", "third_party/googleapis"]
    names = [f"protos/{name}" for name in OURS]
    for command in (["buf", "build"], ["protoc", *paths, "--java_out", "stubs", *names]):
        done = subprocess.run(
            [BIN / command[0], *command[1:]], cwd=tmp_path, capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.needs("protoc and buf")
def test_a_breaking_change_is_measured_against_the_newest_release(tmp_path: Path) -> None:
    """By all rules; before the first release against main, by those of the wire and of JSON."""
    for name in ("protos", "tools/protos.py", "buf.yaml", "third_party/googleapis"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, tmp_path / name)

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@localhost")
        subprocess.run([shutil.which("git") or "git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def breaking() -> tuple[int, str]:
        command = [sys.executable, "tools/protos.py", "breaking"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout

    git("init", "--initial-branch", "main")
    git("add", "protos", "tools", "buf.yaml")
    git("commit", "--message", "First")
    task = tmp_path / "protos/taskgate/v1/task.proto"
    first = task.read_text()
    task.write_text(first.replace('java_package = "com.taskgate.v1"', 'java_package = "other"'))
    code, output = breaking()
    assert (code, "the main branch, as no release is tagged: " in output) == (0, True)
    task.write_text(first.replace("int32 retry_count = 5;", "int64 retry_count = 5;"))
    assert "type from" in breaking()[1]
    task.write_text(first.replace('java_package = "com.taskgate.v1"', 'java_package = "other"'))
    for tag in ("v0.9.0", "v0.10.0", "v0.11.0-rc1"):
        git("tag", tag)
    code, output = breaking()
    assert code
    assert "release v0.10.0: " in output
    assert "java_package" in output
