"""What a started database is to a benchmark, and how its program is found."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import PeerMissing
from bench.processes import ServerProcess
from tools.servers import Missing, Server, find


@dataclass(frozen=True, slots=True)
class Database:
    """What answers under ``url``, which taskgate's ``--store`` takes, and the processes that do."""

    url: str
    processes: Sequence[ServerProcess]


def program_of(server: Server) -> str:
    """The program's path. Raises PeerMissing."""
    try:
        return str(find(server))
    except Missing as reason:
        raise PeerMissing(str(reason)) from reason
