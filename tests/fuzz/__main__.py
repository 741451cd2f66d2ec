"""Run fuzz targets: ``python -m fuzz [--seconds N] [TARGET...]``, or one input: ``python -m fuzz --input FILE TARGET``.

Each target runs in a process of its own, which libFuzzer ends at the first crash. What reached new code is kept in
``build/fuzz/TARGET/corpus`` for the next run, what crashed in ``build/fuzz/TARGET``.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fuzz.engine import fuzz, silence
from fuzz.target import Target

FOLDER = Path("build/fuzz")
_SHOWN_BYTES = 400
_SPARE_SECONDS = 60


def main() -> int:
    """Return 1 if any target crashed."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="those to run; all without one")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--input", type=Path, help="run the one target with this input alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        fuzz(asked.targets[0], FOLDER / asked.targets[0], asked.seconds)
    from fuzz.all_targets import TARGETS  # noqa: PLC0415 - after the engine, which instruments what is imported

    unknown = sorted(set(asked.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in asked.targets or TARGETS]
    if asked.input:
        silence()
        chosen[0].run(asked.input.read_bytes())
        print("no crash")
        return 0
    crashed = [target.name for target in chosen if not _run(target, asked.seconds)]
    print(f"{len(chosen) - len(crashed)} of {len(chosen)} targets without a crash{': not ' if crashed else ''}", end="")
    print(*crashed)
    return 1 if crashed else 0


def _run(target: Target, seconds: int) -> bool:
    """Run one target, print what came of it, and return whether all was well."""
    folder = FOLDER / target.name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    known = set(_crashes(folder))
    command = [sys.executable, "-m", "fuzz", "--child", "--seconds", str(seconds), target.name]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=seconds + _SPARE_SECONDS, check=False
    )
    output = done.stdout + done.stderr
    executed = re.search(r"number_of_executed_units: (\d+)", output)
    kept = len(list((folder / "corpus").iterdir()))
    print(
        f"{target.name}: {executed[1] if executed else 'unknown'} executions, {kept} inputs in the corpus", flush=True
    )
    found = sorted(set(_crashes(folder)) - known)
    for path in found:
        shown = path.read_bytes()[:_SHOWN_BYTES]
        print(f"CRASH {path.name.partition('-')[0]} in {target.name} by {shown!r}")
        print(f"  again: PYTHONPATH=tests:. .venv/bin/python -m fuzz --input {path} {target.name}")
    if found or done.returncode:
        print("\n".join(f"  | {line}" for line in output.splitlines() if not line.startswith(("INFO", "stat::"))))
    return not found and not done.returncode


def _crashes(folder: Path) -> Iterator[Path]:
    """The inputs that libFuzzer has kept besides the corpus: ``crash-``, ``timeout-``, ``oom-`` and a digest."""
    return folder.glob("*-*")


sys.exit(main())
