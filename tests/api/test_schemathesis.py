"""Schemathesis drives the live gateway from the document that it serves, and finds nothing."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from support.access import create_keys
from support.running import running_system
from taskgate.access.roles import Role

pytestmark = pytest.mark.long

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = 200
"""The most requests for an operation in its random phase."""


def test_no_answer_contradicts_the_document(mode: str, tmp_path: Path) -> None:
    """Requests that the document allows, and ones that it does not, with a valid token and without."""
    url = f"sqlite:///{tmp_path}/keys.db"
    key = create_keys(url, schemathesis=(Role.READER, None))["schemathesis"]
    options = ("--demo", "--auth", "keys", "--auth-store", url)
    with running_system(tmp_path / "tasks.db", *options, mode=mode, workers=1) as system:
        base = f"http://{system.http}"
        body, kind = json.dumps(key.request).encode(), {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{base}/api/token", body, kind)) as answer:  # noqa: S310
            token = json.load(answer)["token"]
        command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(CONFIG)]
        command += ["run", f"{base}/openapi.json", "--checks", "all", "--max-examples", str(EXAMPLES)]
        command += ["--generation-database", "none", "--no-color"]
        for header in ([], ["--header", f"X-Authorization: {token}"], ["--header", f"Authorization: Bearer {token}"]):
            done = subprocess.run([*command, *header], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
            assert "3 selected / 3 total" in done.stdout
        assert "Traceback" not in "\n".join(system.log)
