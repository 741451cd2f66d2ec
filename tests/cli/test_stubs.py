"""``make stubs`` on a machine that lacks a toolchain."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
