"""Everything that is done with ``protos/``: ``python tools/protos.py COMMAND``, from any folder, without a network.

buf, the plugins and Google's protos are those of the Python environment that runs this script. Google's files are
copied into ``third_party``, so that buf and protoc compile a fresh clone; ``check`` compares the copies.
"""

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata, resources
from pathlib import Path

from google.api import annotations_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = "protos"
GOOGLEAPIS = Path("third_party/googleapis")
"""``google/api`` and ``google/rpc`` as far as ours import them, with their licence: a module in ``buf.yaml``."""

_FORMER_GOOGLEAPIS = Path("build/googleapis")
"""Where ``buf.yaml`` of earlier commits expects them, which had them not in git."""

WELL_KNOWN = Path("third_party/google/protobuf")
"""Protobuf's own files that ours import, directly or not. Compilers have them; `taskgate protos` ships them too, and no
wheel that it may depend on has them."""

STUBS = Path("server/taskgate/v1")
DESCRIPTOR_SET = Path("gateway/taskgate.binpb")

ALSO_IN_DESCRIPTOR_SET = ("google/rpc/error_details.proto",)
"""Files that none of our protos imports: to read ``grpc-status-details-bin``, Envoy has to know ``ErrorInfo``."""

RELEASE_TAG = re.compile(r"v?\d+\.\d+\.\d+")

_WHEEL = Path(annotations_pb2.__file__).resolve().parents[2]
_IMPORT = re.compile(r'^import (?:public |weak )?"(google/[^"]+)";', re.MULTILINE)
_WELL_KNOWN = "google/protobuf/"


def main() -> int:
    """Run one command. The exit code is 0 on success."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run, text in (
        (
            "generate",
            generate,
            "write the Python stubs, the descriptor set for Envoy and the copies of Google's protos",
        ),
        ("check", check, "fail if what is checked in differs from a fresh generation, naming each file"),
        ("lint", lint, "check style and comments"),
        ("format", format_in_place, "format in place"),
        ("format-check", format_check, "fail, with a diff, if a file is not formatted"),
        ("build", build, "check that the protos compile"),
        (
            "breaking",
            breaking,
            "fail if a change breaks callers of the last release or, before one, of the main branch",
        ),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if run is breaking:
            command.add_argument("--against", metavar="REF", help="compare with this git revision instead")
    arguments = vars(parser.parse_args())
    run = arguments.pop("run")
    return int(run(**arguments))


def generate() -> int:
    """Replace all generated files, so that none outlives its proto."""
    write_imports(ROOT, ROOT / GOOGLEAPIS)  # before buf reads them
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        if code := generate_into(fresh):
            return code
        for path in generated_files(ROOT):
            (ROOT / path).unlink()
        for path in generated_files(fresh):
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / path, ROOT / path)
    return 0


def check() -> int:
    """Compare the files in the tree with freshly generated ones."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        if code := generate_into(fresh):
            return code
        faults = [
            f"{path}: {fault}"
            for path in sorted({*generated_files(ROOT), *generated_files(fresh)})
            if (fault := difference(ROOT / path, fresh / path))
        ]
    for line in faults:
        print(line, file=sys.stderr)
    if faults:
        print("Generated files do not match protos/; run: make protos", file=sys.stderr)
    return int(bool(faults))


def lint() -> int:
    """Apply the rules of ``buf.yaml``."""
    return buf("lint", PROTOS)


def format_in_place() -> int:
    """Rewrite the protos in buf's format."""
    return buf("format", "--write", PROTOS)


def format_check() -> int:
    """Show what the formatter would change."""
    return buf("format", "--diff", "--exit-code", PROTOS)


def build() -> int:
    """Compile without keeping the output."""
    return buf("build", PROTOS)


def breaking(against: str | None) -> int:
    """Compare with an earlier state of the protos in git; without one, say so and pass.

    Before the first release nobody has code made from these protos, so only bytes and JSON must stay compatible.
    """
    if not (ROOT / ".git").exists():
        return not_checked("this is not a git repository")
    try:
        release = newest_release()
        revision = commit_of(against or release) if against or release else base_revision()
        if against and not revision:
            print(f"breaking: there is no revision {against}", file=sys.stderr)
            return 1
        paths = git("ls-tree", "--name-only", revision, PROTOS, "buf.yaml").splitlines() if revision else []
        if PROTOS not in paths:
            return not_checked("git has no earlier version of protos/")
        archive = git_bytes("archive", "--format=tar", revision, *paths)
    except subprocess.CalledProcessError as error:
        print(f"breaking: git failed: {error.stderr.decode(errors='replace').strip()}", file=sys.stderr)
        return 1
    rules = "FILE" if release else "WIRE_JSON"
    name = against or (f"release {release}" if release else "the main branch, as no release is tagged")
    commit = git("log", "-1", "--format=%h %s", revision)
    print(f"breaking: comparing, by the rules {rules}, with {name}: {commit}", flush=True)
    return compare_with(archive, rules)


def compare_with(archive: bytes, rules: str) -> int:
    """Compare the protos here with those in a tar archive of an earlier tree, by ``rules`` in place of ``FILE``."""
    config = (ROOT / "buf.yaml").read_text(encoding="utf-8").replace("- FILE\n", f"- {rules}\n")
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder)
        shutil.copyfile(ROOT / "buf.yaml", earlier / "buf.yaml")  # replaced by the earlier one where there was one
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(earlier, filter="data")
        for copies in (GOOGLEAPIS, _FORMER_GOOGLEAPIS):
            write_imports(earlier, earlier / copies)
        return buf("breaking", PROTOS, "--against", str(earlier / PROTOS), "--config", config)


def not_checked(reason: str) -> int:
    """Pass with a notice, which tells this from a comparison that found no changes."""
    print(f"breaking: NOT CHECKED: {reason}, so there is nothing to compare with", file=sys.stderr)
    return 0


def base_revision() -> str:
    """Return the commit with which the protos must stay compatible; empty without one.

    On a branch, this is main. On main itself, it is the published state (origin/main). If that is this very commit, as
    in the pipeline of main, or unknown: the commit itself if the tree has changes to it, otherwise the one before.
    """
    head = git("rev-parse", "HEAD")
    for name in ("main", "origin/main"):
        if (commit := commit_of(name)) and commit != head:
            return commit
    changed = git("status", "--porcelain", "--", PROTOS)
    return head if changed else commit_of("HEAD^")


def newest_release() -> str:
    """Return the tag of the newest release that this commit comes after; empty without one."""
    tags = git("tag", "--merged", "HEAD", "--sort=-version:refname").splitlines()
    return next((tag for tag in tags if RELEASE_TAG.fullmatch(tag)), "")


def commit_of(revision: str) -> str:
    """Return the commit's full hash; empty for an unknown revision."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    except subprocess.CalledProcessError:
        return ""


def write_imports(tree: Path, folder: Path) -> None:
    """Write the files of googleapis that ``tree``'s protos import, directly or not, and the licence into ``folder``."""
    # Compilers have protobuf's own.
    files = {name: text for name, text in imports(tree).items() if not name.startswith(_WELL_KNOWN)}
    for name, content in {**files, "LICENSE": _licence()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _licence() -> bytes:
    files = metadata.files("googleapis-common-protos") or ()
    return next(file for file in files if file.name == "LICENSE").read_binary()


def imports(tree: Path) -> dict[str, bytes]:
    """Return the files under ``google/`` that ``tree``'s protos import, directly or not, by name."""
    sources = [path.read_text(encoding="utf-8") for path in sorted((tree / PROTOS).rglob("*.proto"))]
    wanted = {*imports_of(sources), *ALSO_IN_DESCRIPTOR_SET}
    files: dict[str, bytes] = {}
    while pending := wanted - files.keys():
        for name in pending:
            folder = _compilers_own() if name.startswith(_WELL_KNOWN) else _WHEEL
            files[name] = (folder / name).read_bytes()
            wanted |= imports_of([files[name].decode()])
    return files


def imports_of(sources: Iterable[str]) -> set[str]:
    """Return the files under ``google/`` that ``sources`` import."""
    return {name for source in sources for name in _IMPORT.findall(source)}


def _compilers_own() -> Path:
    """Return the folder of the protos that come with protoc."""
    return Path(str(resources.files("grpc_tools"))) / "_proto"


def generate_into(folder: Path) -> int:
    """Generate everything into ``folder``, laid out as in the tree."""
    (folder / DESCRIPTOR_SET).parent.mkdir(parents=True, exist_ok=True)
    write_imports(ROOT, folder / GOOGLEAPIS)
    (folder / WELL_KNOWN).mkdir(parents=True)
    for name, content in imports(ROOT).items():
        if name.startswith(_WELL_KNOWN):
            (folder / WELL_KNOWN / Path(name).name).write_bytes(content)
    # The whole workspace and not only protos/: that is how ALSO_IN_DESCRIPTOR_SET gets in.
    descriptors = ("--as-file-descriptor-set", "--exclude-source-info", "--output", str(folder / DESCRIPTOR_SET))
    return buf("generate", "--output", str(folder)) or buf("build", ".", *descriptors)


def generated_files(tree: Path) -> Iterator[Path]:
    """Return the generated files in ``tree``, relative to it."""
    yield from (path.relative_to(tree) for path in (tree / STUBS).glob("*_pb2*.py*") if path.is_file())
    yield from (path.relative_to(tree) for path in (tree / WELL_KNOWN).glob("*.proto"))
    yield from (path.relative_to(tree) for path in (tree / GOOGLEAPIS).rglob("*") if path.is_file())
    if (tree / DESCRIPTOR_SET).is_file():
        yield DESCRIPTOR_SET


def difference(checked_in: Path, fresh: Path) -> str:
    """Return what is wrong with one checked-in file; empty if it is correct."""
    if not checked_in.is_file():
        return "missing"
    if not fresh.is_file():
        return "no proto makes this file any more"
    return "" if checked_in.read_bytes() == fresh.read_bytes() else "differs"


def buf(*arguments: str) -> int:
    """Run buf in the root of the tree and return its exit code."""
    folder = Path(sys.executable).parent  # buf looks for `python` and the plugins on PATH
    path = os.pathsep.join((str(folder), os.environ.get("PATH", "")))
    program = shutil.which("buf", path=path)
    if program is None:
        print(f"buf is not in {folder}; run: make setup", file=sys.stderr)
        return 1
    return subprocess.run([program, *arguments], cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode


def git(*arguments: str) -> str:
    """Return git's output without the final newline."""
    return git_bytes(*arguments).decode().strip()


def git_bytes(*arguments: str) -> bytes:
    """Return git's output. Raises CalledProcessError if it fails."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


if __name__ == "__main__":
    sys.exit(main())
