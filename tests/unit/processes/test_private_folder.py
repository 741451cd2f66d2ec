"""The folder for sockets that only its user may enter."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskgate.base.errors import SettingsError, StartError
from taskgate.processes.envoy import folder
from taskgate.processes.envoy.folder import PrivateFolder


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty temporary directory with a short name."""
    made = Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_names_that_leave_no_room_for_a_socket_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the short one cannot be used either; the sentence says how short it has to be."""
    long = "/" + "a" * 100
    monkeypatch.setattr(tempfile, "tempdir", long)
    monkeypatch.setattr(folder, "_SHORT", "/nowhere")
    with pytest.raises(SettingsError, match=rf"{long} is too long for a Unix.*has at most \d\d bytes"):
        PrivateFolder()


def test_temporary_directory_that_takes_nothing_is_an_error_with_a_sentence(temporary: Path) -> None:
    temporary.rmdir()
    temporary.touch()
    with pytest.raises(StartError, match="cannot create a folder in the temporary directory: Not a directory"):
        PrivateFolder()
    temporary.unlink()


def test_what_a_dead_owner_left_is_removed_and_nothing_else(temporary: Path) -> None:
    """Not a folder of the living, nor one without our mark, nor what a link leads to."""
    program = "import os; from taskgate.processes.envoy.folder import PrivateFolder; PrivateFolder(); os._exit(1)"
    environment = {**os.environ, "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    (left,) = temporary.iterdir()
    living = PrivateFolder()
    assert not left.exists()
    unmarked = temporary / "taskgate-unmarked"
    unmarked.mkdir(mode=0o700)
    open_to_others = temporary / "taskgate-open"
    open_to_others.mkdir(mode=0o755)
    (open_to_others / "taskgate.private").touch()
    link = temporary / "taskgate-link"
    elsewhere = Path(tempfile.mkdtemp(dir=temporary, prefix="else"))
    (elsewhere / "taskgate.private").touch()
    link.symlink_to(elsewhere)
    PrivateFolder().remove()
    assert {*temporary.iterdir()} == {living.path, unmarked, open_to_others, link, elsewhere}
    living.remove()
    living.remove()
    assert not living.path.exists()
