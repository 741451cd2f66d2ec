"""``make stubs`` on a machine that lacks a toolchain, and the templates of buf in a project of one's own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support.in_process import asked
from tools import stubs

ROOT = Path(__file__).parents[2]

REMOTE = {
    "grpc_cpp_plugin": "grpc/cpp",
    "grpc_python_plugin": "grpc/python",
    "grpc_ruby_plugin": "grpc/ruby",
    "protoc-gen-es": "bufbuild/es",
    "protoc-gen-go": "protocolbuffers/go",
    "protoc-gen-go-grpc": "grpc/go",
    "protoc-gen-grpc-java": "grpc/java",
    "protoc-gen-grpc-kotlin": "grpc/kotlin",
    "protoc-gen-prost": "community/neoeinstein-prost",
    "protoc-gen-prost-serde": "community/neoeinstein-prost-serde",
    "protoc-gen-tonic": "community/neoeinstein-tonic",
}
"""The names of local plugins at buf's registry."""

ONLY_REMOTE = {"csharp": [("grpc/csharp", "base_namespace=")]}
"""Plugins that no registry has from which ``make stubs`` fetches."""


@pytest.mark.parametrize(("variables", "code"), [({}, 0), ({"CI": "true"}, 1)], ids=["by hand", "in CI"])
def test_a_missing_toolchain_is_said_and_fails_in_ci(tmp_path: Path, variables: dict[str, str], code: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.stubs", "rust"],
        cwd=ROOT,
        env=environment | {"PATH": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = done.stderr.splitlines()
    assert said[0] == "LEFT OUT: rust: there is no cargo; put Rust's toolchain on PATH"
    assert (done.returncode, said[1:]) == (
        code,
        ["FAILED: CI may not leave out rust stubs; may_be_left_out.txt has what it may"] * code,
    )


@pytest.mark.parametrize(
    ("language", "made"),
    [
        pytest.param("python", ["task_pb2.py", "task_pb2.pyi", "task_service_pb2_grpc.py"], id="python"),
        pytest.param("go", ["task.pb.go", "task_service_grpc.pb.go"], marks=pytest.mark.needs("go stubs"), id="go"),
    ],
)
@pytest.mark.needs("protoc and buf")
def test_a_template_works_in_a_project_of_ones_own(language: str, made: list[str], tmp_path: Path) -> None:
    """As docs/languages.md says: beside the protos, with the plugins on PATH."""
    path = os.pathsep.join(map(str, (*stubs.LANGUAGES[language](), stubs.BIN, os.environ["PATH"])))
    shutil.copyfile(ROOT / "examples" / language / "buf.gen.yaml", tmp_path / "buf.gen.yaml")
    assert asked("protos", str(tmp_path / "taskgate-protos")).exit_code == 0
    command = [stubs.BIN / "buf", "generate", "--output", "stubs"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {name.name for name in (tmp_path / "stubs/taskgate/v1").iterdir()} >= set(made)
    assert [entry.name for entry in (tmp_path / "stubs").iterdir()] == ["taskgate"]


@pytest.mark.needs("protoc and buf")
def test_grpcio_tools_alone_makes_pythons_stubs(tmp_path: Path) -> None:
    assert asked("protos", str(tmp_path / "taskgate-protos")).exit_code == 0
    (tmp_path / "stubs").mkdir()
    out = "--python_out stubs --pyi_out stubs --grpc_python_out stubs taskgate-protos/taskgate/v1/*.proto"
    line = f"{sys.executable} -m grpc_tools.protoc -I taskgate-protos {out}"
    subprocess.run(["/bin/sh", "-c", line], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "stubs/taskgate/v1/task_service_pb2_grpc.py").is_file()


@pytest.mark.parametrize("language", stubs.LANGUAGES)
def test_remote_templates_take_what_the_local_ones_do(language: str) -> None:
    """The same files, plugins and options, of which the local ones are run."""
    remotes = [template(ROOT / name) for name in ("buf.gen.remote.yaml", "buf.gen.remote-google.yaml")]
    (remote,) = [each for each in remotes if plugins(each, f"stubs/{language}")]
    local = template(ROOT / "examples" / language / "buf.gen.yaml")
    assert remote["inputs"] == local["inputs"]
    assert plugins(remote, f"stubs/{language}") == plugins(local, ".") + ONLY_REMOTE.get(language, [])


def template(file: Path) -> Any:
    return YAML(typ="safe").load(file.read_text())


def plugins(loaded: Any, out: str) -> list[tuple[str, Any]]:
    """The plugins that write into ``out``, by their names at buf's registry, with their options."""
    return [(remote_name(plugin), plugin.get("opt")) for plugin in loaded["plugins"] if plugin["out"] == out]


def remote_name(plugin: Any) -> str:
    if "remote" in plugin:
        return str(plugin["remote"]).removeprefix("buf.build/")
    return f"protocolbuffers/{plugin['protoc_builtin']}" if "protoc_builtin" in plugin else REMOTE[plugin["local"]]
