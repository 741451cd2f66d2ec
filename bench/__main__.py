"""``python -m bench``: what to measure, how long, and where the tables go."""

import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bench.cases import CASES, Case, choose
from bench.commands import Import, idle_memory, import_tasks, seconds_to_first_answer
from bench.errors import BenchError
from bench.loads import Load, find_generators
from bench.machine import describe_machine
from bench.measuring import Plan, measure, prepare
from bench.report import render_markdown, render_text
from bench.results import Results, as_json
from bench.servers import Site, running

IMPORT, START = "import", "start"
"""What can be asked for beside the cases."""

STARTS = 3
"""Times that ``taskgate up`` is started to time it."""

IMPORT_SHARE = 3
"""The first of two imports has a third of the tasks: enough to fill its caches, after which memory must stay flat."""

KEYS = (*(case.key for case in CASES), IMPORT, START)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100), help="Rounds over all cases.")
@click.option(
    "--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 600), help="Seconds a case has each round."
)
@click.option(
    "--warm-up",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.1, 60),
    help="Seconds before that, not counted.",
)
@click.option(
    "--connections",
    default=32,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Calls in flight: as many HTTP/1.1 connections, or HTTP/2 connections with eight calls on each.",
)
@click.option("--rows", default=1000, show_default=True, type=click.IntRange(1), help="Tasks in the SQLite file.")
@click.option(
    "--import-rows", default=100_000, show_default=True, type=click.IntRange(IMPORT_SHARE), help="Tasks to import."
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["info", "warning"]),
    help="taskgate's log level; 'info' writes a line for each call, as installed.",
)
@click.option("--only", multiple=True, metavar="NAME", help=f"Measure only these, repeatable: {', '.join(KEYS)}.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the tables here as well.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write every round here.")
def main(
    *,
    rounds: int,
    seconds: float,
    warm_up: float,
    connections: int,
    rows: int,
    import_rows: int,
    log_level: str,
    only: tuple[str, ...],
    markdown: Path | None,
    json_path: Path | None,
) -> None:
    """Measure taskgate beside its peers, on this machine, in about two minutes.

    Every server runs on a free loopback port over one SQLite file; each is asked once for the right answer before and
    after. Ratios between rows are what to look at: single numbers say more about the machine. The exit code is 1 if a
    call failed or an answer was wrong; a missed budget is printed, and changes nothing else.

    \b
    Examples:
      python -m bench
      python -m bench --only rest --only fastapi --rounds 5
      python -m bench --only 'grpc-*' --only echo --connections 1
      python -m bench --markdown bench.md --json bench.json
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so stops every server
    plan = Plan(Load(connections, seconds), rounds, warm_up)
    try:
        results = run(plan, choose(KEYS, only), rows=rows, import_rows=import_rows, log_level=log_level)
    except BenchError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(1)
    click.echo(render_text(results), nl=False)
    if markdown:
        markdown.write_text(render_markdown(results), encoding="utf-8")
    if json_path:
        json_path.write_text(json.dumps(as_json(results), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(1 if results.failed else 0)


def run(plan: Plan, wanted: Sequence[str], *, rows: int, import_rows: int, log_level: str) -> Results:
    """Measure what is ``wanted``; says on standard error what it is at."""
    results = Results(describe_machine(), plan, rows, log_level)
    cases = [case for case in CASES if case.key in wanted]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        site = Site(Path(name, "tasks.db"), Path(name), log_level)
        if IMPORT in wanted:
            results.imports = [
                _import(Path(name, f"import-{n}.db"), n) for n in (import_rows // IMPORT_SHARE, import_rows)
            ]
        if START in wanted or cases:
            say(f"filling the store with {rows:,} tasks")
            import_tasks(site.database, rows)
        if START in wanted:
            say(f"starting taskgate {STARTS} times")
            results.start_seconds = seconds_to_first_answer(site, STARTS)
        if cases:
            _measure(cases, site, results)
    return results


def _import(database: Path, count: int) -> Import:
    say(f"importing {count:,} tasks")
    return import_tasks(database, count)


def _measure(cases: Sequence[Case], site: Site, results: Results) -> None:
    generators = find_generators()
    if generators.warning:
        say(generators.warning)
    with running(dict.fromkeys(case.server for case in cases), site) as servers:
        say(f"starting {', '.join(servers)}")
        subjects = prepare(cases, servers, generators)
        results.memory = idle_memory(servers)
        results.measured = measure(subjects, results.plan, say)


def say(sentence: str) -> None:
    """Tell whoever waits."""
    click.echo(sentence, err=True)


if __name__ == "__main__":
    main(prog_name="python -m bench")
