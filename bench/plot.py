"""Requests a second as a picture: one panel for each size of document, REST and gRPC apart, all servers."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.measuring import Measured
from bench.plan import MAIN_CONNECTIONS, Cell
from bench.results import Results

OURS, PEERS = "#1f6fb4", "#b0b7bf"

_INCHES_A_BAR, _INCHES_A_PANEL = 0.3, 0.9

_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "taskgate", "font.size": 9.0}
"""Text stays text, and equal results make equal files."""


def panels(results: Results) -> list[tuple[str, list[Measured]]]:
    """Title and rows of each panel: what was measured on 32 connections, or on those of which there are most."""
    cells: dict[str, Cell] = {}
    for cell in results.cells:
        known = cells.get(cell.document.name)
        if known is None or abs(cell.load.in_flight - MAIN_CONNECTIONS) < abs(known.load.in_flight - MAIN_CONNECTIONS):
            cells[cell.document.name] = cell
    found = []
    for cell in cells.values():
        for protocol in ("REST", "gRPC"):
            rows = [row for row in results.in_cell(cell) if row.case.protocol == protocol and row.samples]
            if rows:
                found.append((f"{protocol}, {cell.title}", rows))
    return found


def draw(results: Results, path: Path) -> None:
    """Write an SVG. Raises BenchError if matplotlib is not installed, or if there is nothing to draw."""
    shown = panels(results)
    if not shown:
        raise BenchError("there is nothing to draw")
    try:
        # By name: it is in the extra "bench" alone, and takes a second to load.
        matplotlib, figure = (importlib.import_module(name) for name in ("matplotlib", "matplotlib.figure"))
    except ImportError as error:
        raise BenchError(f"no picture, because matplotlib is not installed: {error}") from error
    heights = [_INCHES_A_PANEL + _INCHES_A_BAR * len(rows) for _, rows in shown]
    with matplotlib.rc_context(_SETTINGS):
        picture = figure.Figure(figsize=(9, sum(heights)), layout="constrained")
        axes = picture.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (title, rows) in zip(axes, shown, strict=True):
            _panel(axis, title, rows)
        picture.savefig(path, metadata={"Date": None})


def _panel(axis: Any, title: str, rows: Sequence[Measured]) -> None:
    """Horizontal bars, fastest first."""
    fastest_first = sorted(rows, key=lambda row: row.rate)
    bars = axis.barh(
        [f"{row.case.title}{' (calls failed)' if row.failed else ''}" for row in fastest_first],
        [row.rate for row in fastest_first],
        color=[OURS if row.case.server.startswith("taskgate") else PEERS for row in fastest_first],
    )
    labels = [f"{row.rate:,.0f}/s, {row.total_cpu_us:,.0f} µs CPU" for row in fastest_first]
    axis.bar_label(bars, labels=labels, padding=3)
    axis.set_title(title, loc="left", fontweight="bold")
    axis.set_xlim(right=max(row.rate for row in rows) * 1.35)  # room for the label of the longest bar
    axis.xaxis.set_visible(False)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
