"""Measure the speed of ``taskgate import``, which every other part uses to fill its stores."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.measuring import Settings
from bench.report import Aim, Report, Table
from bench.servers import Site
from bench.tasks import write_tasks
from tools.processes import LOG_TAIL, Failed

RATE_AIM = 30_000

_LONGEST = 1800
"""Seconds that an import may take; ten million rows take minutes."""

_TASKS, _QUICK_TASKS, _SHARE = 100_000, 30_000, 3


def measure_import(site: Site, settings: Settings, report: Report) -> None:
    """A third of the tasks, and all: the difference excludes the start of the command."""
    most = _QUICK_TASKS if settings.quick else _TASKS
    counts, seconds = (most // _SHARE, most), []
    for count in counts:
        report.say(f"importing {count:,} tasks")
        seconds.append(import_tasks(site.folder / f"import-{count}.db", partial(write_tasks, count=count)))
    rate = (counts[1] - counts[0]) / max(seconds[1] - seconds[0], 1e-3)
    what = "import of 1.9 KB tasks into SQLite, sustained"
    report.aims.append(Aim(what, rate, RATE_AIM, "tasks/s", at_least=True))
    cells = [(f"{count:,}", f"{taken:.2f}") for count, taken in zip(counts, seconds, strict=True)]
    notes = [f"Of the whole command. Without its start, which is in both: {rate:,.0f} tasks a second."]
    report.tables.append(Table("taskgate import into SQLite", ("tasks", "seconds"), cells, notes))


def import_tasks(database: Path, write: Callable[[Path], None], *, store: str = "") -> float:
    """Import the tasks that ``write`` writes as NDJSON into a SQLite file, or into the ``store`` of a URL.

    Return the seconds of the whole command. Raises Failed if it fails.
    """
    source = database.with_suffix(".ndjson")
    write(source)
    url = store or f"sqlite:///{database}"
    command = [sys.executable, "-m", "taskgate", "import", "--quiet", "--store", url, str(source)]
    started = time.monotonic()
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=_LONGEST)
    except subprocess.CalledProcessError as error:
        raise Failed(f"taskgate import ended with code {error.returncode}: {error.stderr[-LOG_TAIL:]}") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"taskgate import did not end within {_LONGEST} s") from error
    finally:
        source.unlink()
    return time.monotonic() - started
