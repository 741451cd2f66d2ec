"""``python -m bench``: what to measure, how long, and where the tables go."""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic

import click

from bench.cases import choose
from bench.conductor import JAR_VARIABLE, JAVA_VARIABLE, ConductorSettings
from bench.errors import BenchError
from bench.plan import CONNECTIONS, MAIN_CONNECTIONS, MOST_ROWS, Plan, full_plan, quick_plan
from bench.plot import draw
from bench.report import render_markdown, render_text
from bench.results import Results, as_json
from bench.run import KEYS, run
from bench.tasks import DOCUMENTS

FOLDER = Path(__file__).parent
"""Where a full run leaves its results."""

_DOCUMENTS = {document.name.replace(" ", ""): document for document in DOCUMENTS}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--quick", is_flag=True, help="A few minutes: few and short rounds, 32 connections only. Not to be quoted."
)
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
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds of every cell, instead of the plan's.")
@click.option("--seconds", type=click.FloatRange(0.1, 600), help="Seconds of every round, instead of the plan's.")
@click.option(
    "--most-rows",
    type=click.Choice([str(rows) for rows in MOST_ROWS]),
    help="Rows of 200 bytes, up to. Ten million take minutes, and 4 GB of disk.  [default: 1000000]",
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["info", "warning"]),
    help="taskgate's log level; 'info' writes a line for each call, as installed.",
)
@click.option(
    "--conductor-jar",
    envvar=JAR_VARIABLE,
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"conductor-server-VERSION-boot.jar, to compare with Conductor.  [{JAR_VARIABLE}]",
)
@click.option(
    "--java", envvar=JAVA_VARIABLE, default="java", help=f"The Java to run it with, 21 or newer.  [{JAVA_VARIABLE}]"
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for results.md, .svg and .json.  [default: bench/ for a whole run, none for a part or a quick one]",
)
def main(
    *,
    quick: bool,
    only: tuple[str, ...],
    documents: tuple[str, ...],
    connections: tuple[int, ...],
    rounds: int | None,
    seconds: float | None,
    most_rows: str | None,
    log_level: str,
    conductor_jar: Path | None,
    java: str,
    output: Path | None,
) -> None:
    """Measure taskgate beside its peers, on this machine, in about twenty minutes.

    Every server runs on a free loopback port over one SQLite file, or over the store that is measured; each is asked
    for the right answer before and after. Ratios between rows are what to look at: single numbers say more about the
    machine. The exit code is 1 if a call failed or an answer was wrong; a missed budget is printed, and changes nothing
    else.

    \b
    Examples:
      python -m bench --quick
      python -m bench --only 'envoy-*' --only fastapi-inline --document 2KB --connections 32 --rounds 9
      python -m bench --only rows --most-rows 10000000
      python -m bench --output build/bench/results
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so stops every server
    began = monotonic()
    whole = not (quick or only or documents or connections)
    try:
        plan = _plan(quick=quick, documents=documents, connections=connections, most_rows=most_rows)
        plan = _with_own(plan, rounds, seconds)
        conductor = ConductorSettings(conductor_jar, java)
        results = run(plan, choose(KEYS, only), log_level=log_level, conductor=conductor, say=say)
    except BenchError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)
    say(f"took {(monotonic() - began) / 60:.1f} minutes")
    click.echo(render_text(results), nl=False)
    if output or whole:
        write(results, output or FOLDER)
    sys.exit(1 if results.failures else 0)


def write(results: Results, folder: Path) -> None:
    """Leave the tables, the picture and every round in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = "results.svg"
    try:
        draw(results, folder / picture)
    except BenchError as error:
        say(f"!! {error}")
        picture = ""
    (folder / "results.md").write_text(render_markdown(results, picture), encoding="utf-8")
    text = json.dumps(as_json(results), indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def say(sentence: str) -> None:
    """Tell whoever waits."""
    click.echo(sentence, err=True)


def _plan(*, quick: bool, documents: tuple[str, ...], connections: tuple[int, ...], most_rows: str | None) -> Plan:
    sizes = [document for name, document in _DOCUMENTS.items() if name in documents] or DOCUMENTS
    make, usual = (quick_plan, (MAIN_CONNECTIONS,)) if quick else (full_plan, CONNECTIONS)
    plan = make(sizes, sorted(set(connections)) or usual)
    if most_rows is None:
        return plan
    return replace(plan, row_counts=[rows for rows in MOST_ROWS if rows <= int(most_rows)])


def _with_own(plan: Plan, rounds: int | None, seconds: float | None) -> Plan:
    cells, store_cells, workflow_cells = (
        [
            replace(
                cell,
                rounds=rounds or cell.rounds,
                load=cell.load if seconds is None else replace(cell.load, seconds=seconds),
            )
            for cell in cells
        ]
        for cells in (plan.cells, plan.store_cells, plan.workflow_cells)
    )
    return replace(plan, cells=cells, store_cells=store_cells, workflow_cells=workflow_cells)


if __name__ == "__main__":
    main(prog_name="python -m bench")
