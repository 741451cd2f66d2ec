"""Sums over processes: what stays, what does not, and what a reader makes of another version's numbers."""

import subprocess
import sys

from taskgate.telemetry.block import Block, BlockReader, Family, add, new_descriptor
from taskgate.telemetry.ledger import Ledger

CALLS = Family(name="calls", kind="counter", help="Calls.", labels=("code",), series=(("OK",), ("INTERNAL",)))
SECONDS = Family(name="seconds", kind="histogram", help="Seconds.", buckets=(0.1, 1.0))
OPEN = Family(name="open", kind="gauge", help="Open.")

KILLED_WHILE_COUNTING = """
import os, signal, sys
from taskgate.telemetry.block import Block, Family
family = Family(name="calls", kind="counter", help="Calls.", labels=("code",), series=(("OK",), ("INTERNAL",)))
block = Block([family], int(sys.argv[1]))
for _ in range(1000):
    block.numbers[block.place("calls", "INTERNAL")] += 1
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_counts_of_ended_processes_stay_and_their_gauges_do_not() -> None:
    ledger = Ledger()
    leases = [ledger.open() for _ in range(2)]
    for number, lease in enumerate(leases, 1):
        block = Block([CALLS, SECONDS, OPEN], lease.descriptor)
        block.numbers[block.place("calls", "OK")] += number
        block.numbers[block.place("seconds") + 1] += number
        block.numbers[block.place("seconds") + 3] += number / 2
        block.numbers[block.place("open")] = number
    for ended in (0, 1, 2):
        if ended:
            leases[ended - 1].end()
        everything, running = ledger.read()
        assert everything["calls"][1] == {("OK",): [3], ("INTERNAL",): [0]}
        assert everything["seconds"][1] == {(): [0, 3, 0, 1.5]}
        assert "open" not in everything
        assert running.get("open", (OPEN, {(): [0]}))[1] == {(): [(3, 2, 0)[ended]]}


def test_what_a_process_had_counted_when_it_was_killed_is_kept() -> None:
    ledger = Ledger()
    lease = ledger.open()
    assert ledger.read() == ({}, {}), "it has described nothing yet"
    command = [sys.executable, "-c", KILLED_WHILE_COUNTING, str(lease.descriptor)]
    assert subprocess.run(command, pass_fds=[lease.descriptor], check=False).returncode == -9
    lease.end()
    assert ledger.read()[0]["calls"][1] == {("OK",): [0], ("INTERNAL",): [1000]}


def test_a_reader_takes_families_that_it_does_not_know_and_begins_anew_with_other_buckets() -> None:
    """A process that was restarted after an upgrade may count other things than its predecessor."""
    descriptor = new_descriptor()
    other = Family(name="seconds", kind="histogram", help="Seconds.", buckets=(0.5,))
    block = Block([other], descriptor)
    block.numbers[block.place("seconds")] += 7
    reader = BlockReader(descriptor)
    totals = {"seconds": (SECONDS, {(): [1.0, 2.0, 3.0, 4.0]}), "calls": (CALLS, {("OK",): [5.0]})}
    add(totals, reader.read())
    reader.close()
    assert totals == {"seconds": (other, {(): [7.0, 0.0, 0.0]}), "calls": (CALLS, {("OK",): [5.0]})}
