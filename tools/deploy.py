"""Check the files of ``deploy/`` with the linters made for them: ``python tools/deploy.py [--build]``, from any folder.

Those of PyPI are in the environment that runs this script. Those in Go are in ``build/go``; with ``--build`` they are
built if they are not, which takes minutes. A linter that cannot be had is named in a line that begins with LEFT OUT;
the others run.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools.servers import PROMTOOL, Missing, find  # noqa: E402 - after the path above, as a script has its own folder there only

DEPLOY = ROOT / "deploy"
MANIFESTS = DEPLOY / "kubernetes"
UNIT = DEPLOY / "systemd" / "taskgate.service"

MOST_EXPOSED = 20
"""The most that ``systemd-analyze security`` may find, of 100."""

GO_PROGRAMS = {
    # The loader of Docker Compose itself, which checks a file against the specification's schema.
    "compose-go": "github.com/compose-spec/compose-go/v2/cmd@v2.16.2",
    "kube-score": "github.com/zegl/kube-score/cmd/kube-score@v1.20.0",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1",
}

_BIN = Path(sys.executable).parent
_OF_OTHERS = {"kustomization.yaml", "monitoring.yaml"}
"""Manifests of kinds that are none of Kubernetes' own."""


class LeftOut(Exception):
    """A linter cannot be had here; the text is its name and why."""


def main() -> int:
    """Run all linters; return 0 if none found fault."""
    failed = False
    for check in CHECKS:
        try:
            failed |= check() != 0
        except LeftOut as error:
            print(f"LEFT OUT: {error}", file=sys.stderr)
    return int(failed)


def dockerfile() -> int:
    """Check the Dockerfile, warnings included."""
    return run(_BIN / "hadolint", "--failure-threshold", "info", DEPLOY / "docker" / "Dockerfile")


def compose() -> int:
    """Check what the Compose file lets containers do."""
    return run(_BIN / "compose-lint", "check", DEPLOY / "docker" / "compose.yaml")


def compose_by_its_loader() -> int:
    """Check the Compose file against the schema of the specification."""
    return run(go_program("compose-go"), DEPLOY / "docker" / "compose.yaml")


def manifests() -> int:
    """Check the manifests against the schemas of Kubernetes; a property that is unknown is a fault, too."""
    return run(_BIN / "kubernetes-validate", "--strict", *own_manifests())


def practice() -> int:
    """Check the manifests for what is good practice, such as probes and security contexts."""
    options = ("--exit-one-on-warning", "--ignore-container-cpu-limit")  # the reason is in deployment.yaml
    return run(go_program("kube-score"), "score", *options, *own_manifests())


def kustomization() -> int:
    """Build what ``kubectl apply --kustomize`` would apply."""
    return run(go_program("kustomize"), "build", MANIFESTS)


def alerts() -> int:
    """Check the alert rules; ``tests/metrics`` lets each fire."""
    return run(promtool(), "check", "rules", DEPLOY / "prometheus" / "alerts.yaml")


def prometheus() -> int:
    """Check Prometheus' configuration."""
    return run(promtool(), "check", "config", DEPLOY / "prometheus" / "prometheus.yaml")


def unit() -> int:
    """Check the systemd unit. systemd looks for the program, which is not installed here: another stands for it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, UNIT.name)
        copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE))
        return run(systemd_analyze(), "verify", copy, silent=True)


def exposure() -> int:
    """Check how much of the machine the systemd unit leaves open."""
    return run(systemd_analyze(), "security", "--no-pager", "--offline=true", f"--threshold={MOST_EXPOSED}", UNIT)


def systemd_analyze() -> str:
    """Return the program. Raises LeftOut."""
    if (program := shutil.which("systemd-analyze")) is None:
        raise LeftOut("systemd-analyze, which this machine does not have (Debian, Ubuntu: apt install systemd)")
    return program


def promtool() -> Path:
    """Return the program. Raises LeftOut."""
    try:
        return find(PROMTOOL)
    except Missing as error:
        raise LeftOut(f"promtool: {error}") from error


def own_manifests() -> list[Path]:
    """Return the manifests whose kinds are Kubernetes' own."""
    return sorted(path for path in MANIFESTS.glob("*.yaml") if path.name not in _OF_OTHERS)


def run(*command: str | Path, silent: bool = False) -> int:
    """Run a linter; return 0 if it finds no fault, else show what it prints.

    One that is ``silent`` otherwise finds fault also by what it prints, whatever its exit code is.
    """
    done = subprocess.run(command, check=False, cwd=DEPLOY, capture_output=True)
    fault = done.returncode != 0 or (silent and bool(done.stdout + done.stderr))
    if fault:
        sys.stdout.buffer.write(done.stdout + done.stderr)
        print(f"{Path(command[0]).name} finds fault with deploy/", file=sys.stderr)
    return int(fault)


def go_program(name: str) -> Path:
    """Return the program of GO_PROGRAMS, built if it is not there. Raises LeftOut."""
    source = GO_PROGRAMS[name]
    folder = ROOT / "build" / "go" / f"{name}-{source.rpartition('@')[2]}"
    if not folder.exists() and "--build" not in sys.argv[1:]:
        raise LeftOut(f"{name}, which 'make check-deploy' builds once")
    if not folder.exists():
        go = shutil.which("go", path=str(_BIN)) or shutil.which("go")
        if go is None:
            raise LeftOut(f"{name}, as there is no Go to build it with")
        environment = {**os.environ, "GOBIN": str(folder), "GOTOOLCHAIN": "local"}
        done = subprocess.run([go, "install", source], check=False, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise LeftOut(f"{name}, which Go cannot build: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
    (program,) = folder.iterdir()  # its name is a part of its module's
    return program


CHECKS = (
    *(dockerfile, compose, compose_by_its_loader),
    *(manifests, practice, kustomization),
    *(alerts, prometheus),
    *(unit, exposure),
)


if __name__ == "__main__":
    sys.exit(main())
