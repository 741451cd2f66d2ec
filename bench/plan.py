"""What is measured, how often and how long: a full run takes about twenty minutes, a quick one a few minutes."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.loads import Load
from bench.tasks import DOCUMENTS, LARGE, SMALL, Document

CONNECTIONS = (1, 32, 256)
"""Calls in flight: as many HTTP/1.1 connections, or HTTP/2 connections with up to eight calls on each."""

MAIN_CONNECTIONS = 32

LARGE_REQUESTS = 96
"""Calls in a round with several connections and the largest document, but at least one for each connection."""

STORE_CONNECTIONS = (32, 1)
"""Calls in flight to taskgate on each store, where these are not told otherwise."""

MOST_ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load, for every case in turn: ``rounds`` of ``load``, each after ``warm_up`` seconds not counted.

    Only the ``main`` cell has all cases.
    """

    document: Document
    load: Load
    rounds: int
    warm_up: float
    main: bool = False

    @property
    def title(self) -> str:
        """``2 KB, 32 connections``."""
        return f"{self.document.name}, {self.load.in_flight} connection{'s' if self.load.in_flight > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: ``cells`` for every server, ``store_cells`` for every store, ``workflow_cells`` beside Conductor.

    ``beside``, ``rows`` and ``growth`` are the rounds of those parts, each of so many ``part_seconds``.
    """

    cells: Sequence[Cell]
    store_cells: Sequence[Cell]
    workflow_cells: Sequence[Cell]
    row_counts: Sequence[int]
    rounds_of_rows: int
    rounds_beside: int
    runs_of_growth: int
    part_seconds: float
    starts: int
    import_tasks: int
    quick: bool = False


def full_plan(documents: Sequence[Document] = DOCUMENTS, connections: Sequence[int] = CONNECTIONS) -> Plan:
    """Everything, about twenty minutes."""
    return Plan(
        cells=_cells(documents, connections, main=(5, 1.5), others=(3, 1.0), large=(2, 2.0)),
        store_cells=_store_cells(connections, rounds=3, seconds=2.0),
        workflow_cells=_store_cells(connections, rounds=5, seconds=2.0),
        row_counts=MOST_ROWS[:4],
        rounds_of_rows=5,
        rounds_beside=3,
        runs_of_growth=8,
        part_seconds=2.0,
        starts=3,
        import_tasks=100_000,
    )


def quick_plan(documents: Sequence[Document] = DOCUMENTS, connections: Sequence[int] = (MAIN_CONNECTIONS,)) -> Plan:
    """One number of connections, few and short rounds: to see that all works, not to quote."""
    return Plan(
        cells=_cells(documents, connections, main=(2, 1.0), others=(1, 0.7), large=(1, 1.0)),
        store_cells=_store_cells(connections, rounds=1, seconds=1.0),
        workflow_cells=_store_cells(connections, rounds=1, seconds=1.0),
        row_counts=MOST_ROWS[:3:2],
        rounds_of_rows=2,
        rounds_beside=1,
        runs_of_growth=4,
        part_seconds=1.0,
        starts=1,
        import_tasks=30_000,
        quick=True,
    )


def _cells(
    documents: Sequence[Document],
    connections: Sequence[int],
    *,
    main: tuple[int, float],
    others: tuple[int, float],
    large: tuple[int, float],
) -> list[Cell]:
    """Main cell first. ``main``, ``others`` and ``large`` are rounds and seconds of each."""
    cells = []
    for document in documents:
        for in_flight in connections:
            is_main = document is SMALL and in_flight == MAIN_CONNECTIONS
            rounds, seconds = main if is_main else large if document is LARGE else others
            requests = None
            if document is LARGE and in_flight > 1:
                requests = max(LARGE_REQUESTS, in_flight)
                rounds = 1 if in_flight > MAIN_CONNECTIONS else rounds  # each takes a gigabyte or more
            cells.append(Cell(document, Load(in_flight, seconds, requests), rounds, warm_up=0.3, main=is_main))
    return sorted(cells, key=lambda cell: not cell.main)


def _store_cells(connections: Sequence[int], *, rounds: int, seconds: float) -> list[Cell]:
    """Those of ``STORE_CONNECTIONS`` that are wanted; whatever is wanted if none of these is. The first one is main.

    One call in flight needs no more than a second: it says how long a call takes, which differs less from the next.
    """
    counts = [count for count in STORE_CONNECTIONS if count in connections] or list(connections)
    loads = [Load(count, seconds if count > 1 else min(seconds, 1.0)) for count in counts]
    return [Cell(SMALL, load, rounds, warm_up=0.3, main=load is loads[0]) for load in loads]
