"""Measure what large tasks cost callers of small ones: small reads alone, and beside large reads of the same server."""

from bench.cases import SERVERS, Case, get_task, rest
from bench.loads import Load
from bench.measuring import Settings, measure
from bench.report import Report
from bench.servers import Server, Site, running
from bench.targets import Target
from bench.tasks import LARGE, SMALL

_CONNECTIONS, _READERS = 4, 32
_ROUNDS, _SECONDS = 3, 2.0


def _readers(server: Server) -> tuple[Target, Load]:
    """Clients that read 10 MB over REST."""
    return rest(server, LARGE), Load(_READERS, 1.0)


def _typed(server: Server) -> tuple[Target, Load]:
    """Clients that read 10 MB as typed GetTask."""
    return get_task(server, LARGE), Load(1, 1.0)


CASES = tuple(
    Case(f"{server}, {state}", f"{title}: {state}", server, rest, beside=beside)
    for server, title in (
        ("embedded", "taskgate embedded"),
        ("proxied", "taskgate proxied"),
        ("fastapi", "FastAPI on uvicorn, read in a thread"),
    )
    for state, beside in (("alone", None), (f"beside {_READERS} readers", _readers), ("beside typed", _typed))
    if beside is not _typed or server != "fastapi"  # which has no gRPC
)


def measure_beside(site: Site, settings: Settings, report: Report) -> None:
    """Measure every state of every server, in interleaved rounds."""
    names = dict.fromkeys(case.server for case in CASES)
    with running(SERVERS, names, site, report.leave_out) as servers:
        rows = measure(CASES, settings.cell(SMALL, _CONNECTIONS, _ROUNDS, _SECONDS), servers, report.say)
    notes = [
        "2 KB over REST: alone, while clients read 10 MB over REST, while one reads 10 MB as typed GetTask.",
        "CPU is of all these reads.",
    ]
    report.add("Small reads beside large ones", rows, notes)
