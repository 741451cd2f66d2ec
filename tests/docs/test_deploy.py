"""The files of deploy/ agree with taskgate. `make check` has linters look at them."""

import re
import subprocess
import sys
from typing import Any

from ruamel.yaml import YAML

from support.documented import ROOT
from support.running import running_system
from taskgate.base.settings import Settings, unknown_variables

DEPLOY = ROOT / "deploy"


def test_every_variable_is_a_setting() -> None:
    """And not misspelt. An @ or the like follows no name."""
    text = "".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    named = set(re.findall(r"TASKGATE_[A-Z_]*[A-Z]", text))
    assert "TASKGATE_STORE_FILE" in named
    unknown = set(unknown_variables(dict.fromkeys(named, "")))
    assert unknown <= {"TASKGATE_PORT"}


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_all_wait_longer_than_a_shutdown_takes() -> None:
    defaults = Settings()
    shutdown = defaults.drain_delay + defaults.shutdown_grace
    unit = (DEPLOY / "systemd/taskgate.service").read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None
    assert float(stop[1]) >= shutdown + 5
    assert seconds(loaded("docker/compose.yaml")["services"]["taskgate"]["stop_grace_period"]) >= shutdown + 5
    pod = loaded("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    variables = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    own = float(variables["TASKGATE_DRAIN_DELAY"]) + float(variables["TASKGATE_SHUTDOWN_GRACE"])
    assert pod["terminationGracePeriodSeconds"] >= own + 5


def loaded(name: str) -> Any:
    return YAML(typ="safe").load(DEPLOY / name)


def test_health_check_of_the_image_follows_healthz(tmp_path: Any) -> None:
    """Its exit code is 0 while taskgate is healthy, 1 with the reason otherwise."""
    command = [sys.executable, str(DEPLOY / "docker/healthcheck.py")]
    with running_system(tmp_path / "tasks.db", "--demo", workers=1) as system:
        port = system.http.rpartition(":")[2]
        environment = {"TASKGATE_HTTP": f"0.0.0.0:{port}"}
        healthy = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        over_tls = environment | {"TASKGATE_TLS_CERT": "tls.crt"}
        not_tls = subprocess.run(command, env=over_tls, capture_output=True, text=True, check=False)
        system.stop()
    gone = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (healthy.returncode, healthy.stderr) == (0, "")
    assert (not_tls.returncode, "SSL" in not_tls.stderr) == (1, True)
    assert (gone.returncode, "Connection refused" in gone.stderr) == (1, True)
