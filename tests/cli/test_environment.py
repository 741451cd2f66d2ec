"""In any environment, taskgate serves, or names what it lacks."""

import signal
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from support.clients import RestClient
from support.documents import DOCUMENTED_ID, UNKNOWN_ID, put_row
from support.running import Running, System, taskgate

# Signals ignored and standard input closed, as by nohup and daemons; no file that others may read.
UNFRIENDLY = ("sh", "-c", "trap '' INT HUP; umask 077; exec \"$@\" <&-", "sh")

NO_PROXY_IS_THERE = "http://127.0.0.1:1"
PROXIES = {
    **dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "ALL_PROXY"), NO_PROXY_IS_THERE),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
}


@pytest.mark.long_in("embedded")
@pytest.mark.parametrize("mode", ["embedded", "proxied"])
def test_up_serves_in_the_worst_environment_at_once(tmp_path: Path, mode: str) -> None:
    """It also stops in order: signals ignored, files closed, no home, an odd locale, dead proxies, few files."""
    read_only = tmp_path / "read-only"
    read_only.mkdir(mode=0o500)
    database = tmp_path / "Aufträge.db"
    environment = {**PROXIES, "HOME": "/nonexistent", "TMPDIR": str(read_only), "LC_ALL": "C", "LANG": "xx_XX"}
    with System(database, "--demo", mode=mode, workers=1, env=environment, files=512, prefix=UNFRIENDLY) as system:
        system.wait_ready()
        with closing(RestClient("rest", system.http)) as client:
            assert client.get_task_json(DOCUMENTED_ID).status == 200
        put_row(database, UNKNOWN_ID, f'{{"taskId":"{UNKNOWN_ID}","status":"COMPLETED","workerId":"日"}}')
        done = taskgate("get", UNKNOWN_ID, "--server", system.grpc, env={**environment, "PYTHONIOENCODING": "latin-1"})
        assert "\\u65e5" in done.stdout
        for server in (system.http, system.grpc):
            done = taskgate("get", DOCUMENTED_ID, "--server", server, env=environment)
            assert (done.returncode, done.stderr) == (0, "")
            assert "COMPLETED" in done.stdout
        assert system.stop(signal.SIGINT if mode == "embedded" else signal.SIGTERM) == 0
        system.assert_gone()
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_standard_files_may_be_closed(tmp_path: Path) -> None:
    """All three: the output does not go to a file or socket that is opened next."""
    command = 'exec "$@" <&- >&- 2>&-'
    task = tmp_path / "task.json"
    task.write_text('{"taskId":"' + DOCUMENTED_ID + '"}')
    store = f"sqlite:///{tmp_path / 'tasks.db'}"
    done = subprocess.run(
        ["/bin/sh", "-c", command, "sh", sys.executable, "-m", "taskgate", "import", "--store", store, str(task)],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert "1 unchanged" in taskgate("import", "--store", store, str(task)).stderr


@pytest.mark.parametrize("command", ["up", "serve"])
def test_too_few_files_are_said(tmp_path: Path, command: str) -> None:
    addresses = ("--grpc", "127.0.0.1:0", *(("--http", "127.0.0.1:0") if command == "up" else ()))
    with Running(command, "--store", f"sqlite:///{tmp_path / 'tasks.db'}", *addresses, files=40) as running:
        assert running.wait() == 2
    (line,) = running.log
    assert line.startswith("taskgate: the limit of open files is 40 (ulimit -n), which is too low")
