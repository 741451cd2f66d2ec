"""Run ``python -m bench``: choose what to measure, how long, and where the report goes."""

import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic

import click

from bench.beside import measure_beside
from bench.cases import CASES, SERVERS, Case, choose
from bench.growth import measure_growth
from bench.importing import import_tasks, measure_import
from bench.machine import describe_machine
from bench.measuring import MAIN_CONNECTIONS, Settings, measure
from bench.plot import draw
from bench.projection import measure_projection
from bench.report import Report
from bench.rows import measure_rows
from bench.servers import Site, running
from bench.starting import measure_start
from bench.stores import measure_stores
from bench.tasks import DOCUMENTS, LARGE, SMALL, write_tasks
from bench.workflows import measure_workflows
from tools.processes import Failed
from tools.servers import H2LOAD, Missing, find

FOLDER = Path(__file__).parent
"""The folder for the report of a full run."""

CONNECTIONS = (1, MAIN_CONNECTIONS, 256)
"""Calls in flight: as many HTTP/1.1 connections, or HTTP/2 connections with up to eight calls on each."""

STORED_TASKS = 1000
"""Tasks of 2 KB in the file that all servers read, in addition to the larger ones."""

PARTS: Mapping[str, Callable[[Site, Settings, Report], None]] = {
    "import": measure_import,
    "start": measure_start,
    "rows": measure_rows,
    "stores": measure_stores,
    "workflows": measure_workflows,
    "projection": measure_projection,
    "beside": measure_beside,
    "growth": measure_growth,
}
"""Parts that can be requested in addition to the cases."""

KEYS = (*(case.key for case in CASES), *PARTS)

_DOCUMENTS = {document.name.replace(" ", ""): document for document in DOCUMENTS}

_NOTES = (
    f"Every row asks for one task in the same SQLite file of {STORED_TASKS:,}, of one serving process.",
    "The Envoy in front of grpcio has a thread for each CPU, as installed; all other Envoys have one.",
    "Go uses as many threads as it likes.",
    "Connections are HTTP/1.1; gRPC has as many calls in flight on fewer connections, up to eight on each.",
    "Latency at full load is calls in flight ÷ throughput: compare it within the table, do not quote it.",
    "CPU time is the server's, a request, all its processes; the generator shares the cores.",
    "taskgate writes a log line for each call, as installed, and checks IDs and documents; the peers do neither.",
)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--quick", is_flag=True, help="A few minutes: one short round, 32 connections only. Not to be quoted.")
@click.option("--only", multiple=True, metavar="NAME", help=f"Measure only these, repeatable: {', '.join(KEYS)}.")
@click.option(
    "--document", "documents", multiple=True, type=click.Choice(list(_DOCUMENTS)), help="Only this size, repeatable."
)
@click.option(
    "--connections",
    multiple=True,
    type=click.IntRange(1, 1000),
    help=f"Calls in flight, repeatable.  [default: {', '.join(map(str, CONNECTIONS))}]",
)
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds of everything, instead of each part's own.")
@click.option("--seconds", type=click.FloatRange(0.1, 600), help="Seconds of a round, instead of each part's own.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for results.md and .svg.  [default: bench/ for a whole run, none for a part or a quick one]",
)
def main(
    *,
    quick: bool,
    only: tuple[str, ...],
    documents: tuple[str, ...],
    connections: tuple[int, ...],
    rounds: int | None,
    seconds: float | None,
    output: Path | None,
) -> None:
    """Measure taskgate beside its peers, on this machine, in about twenty minutes.

    Every server runs on a free loopback port over one SQLite file, or over the store that is measured; each is asked
    for the right answer before and after. Ratios between rows are what to look at: single numbers say more about the
    machine. What is not to be had here is left out, with the reason. The exit code is 1 if a call failed, an answer was
    wrong or a part could not be measured; an aim that is missed is printed, and changes nothing else.

    \b
    Examples:
      python -m bench --quick
      python -m bench --only rest --only fastapi-inline --document 2KB --connections 32 --rounds 9
      python -m bench --only stores --output build/bench/results
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so stops every server
    began = monotonic()
    settings = Settings(
        documents=[document for name, document in _DOCUMENTS.items() if name in documents] or DOCUMENTS,
        connections=sorted(set(connections)) or ((MAIN_CONNECTIONS,) if quick else CONNECTIONS),
        quick=quick,
        rounds=rounds,
        seconds=seconds,
    )
    report = Report(describe_machine(), partial(click.echo, err=True))
    if quick:
        report.warnings.append("A quick run, to see that all works. Not to be quoted.")
    try:
        find(H2LOAD)
        _measure(settings, choose(KEYS, only), report)
    except (Failed, Missing) as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)
    report.say(f"took {(monotonic() - began) / 60:.1f} minutes")
    click.echo(report.render(), nl=False)
    if output or not (quick or only or documents or connections or rounds or seconds):
        write(report, output or FOLDER)
    sys.exit(1 if report.failures else 0)


def write(report: Report, folder: Path) -> None:
    """Write the report and its picture into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = "results.svg"
    try:
        draw(report.rows, folder / picture)
    except Failed as error:
        report.say(str(error))
        picture = ""
    (folder / "results.md").write_text(report.render(picture), encoding="utf-8")


def _measure(settings: Settings, wanted: Sequence[str], report: Report) -> None:
    """Measure the ``wanted`` parts of ``KEYS``, in an order in which no part disturbs another."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        site = Site(Path(name, "tasks.db"), Path(name))
        report.say(f"filling the store with {STORED_TASKS:,} tasks")
        import_tasks(site.database, partial(write_tasks, count=STORED_TASKS, others=DOCUMENTS[1:]))
        if cases := [case for case in CASES if case.key in wanted]:
            _measure_cases(site, settings, cases, report)
        for part in (part for part in PARTS if part in wanted):
            try:
                PARTS[part](site, settings, report)
            except Missing as reason:
                report.leave_out(part, str(reason))
            except Failed as error:
                report.fail(f"{part}: {error}")


def _measure_cases(site: Site, settings: Settings, cases: Sequence[Case], report: Report) -> None:
    """Every document by every number of calls in flight: the main cell first, and longest."""
    names = dict.fromkeys(case.server for case in cases)
    report.say(f"starting {', '.join(names)}; the first build of the Go service takes minutes")
    cells = [
        settings.cell(document, count, *((5, 1.5) if main else (2, 2.0) if document is LARGE else (3, 1.0)))
        for document in settings.documents
        for count in settings.connections
        for main in [document is SMALL and count == MAIN_CONNECTIONS]
    ]
    with running(SERVERS, names, site, report.leave_out) as servers:
        for cell in sorted(cells, key=lambda cell: not cell.main):
            rows = measure(cases, cell, servers, report.say)
            report.add(f"Requests: {cell}", rows, _NOTES if cell.main else ())


if __name__ == "__main__":
    main(prog_name="python -m bench")
