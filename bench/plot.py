"""Plot requests a second, with one panel for each size of document."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cases import CASES
from bench.measuring import MAIN_CONNECTIONS, Row
from tools.processes import Failed

OURS, PEERS = "#1f6fb4", "#b0b7bf"

_INCHES_A_BAR, _INCHES_A_PANEL = 0.3, 0.9

_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "taskgate", "font.size": 9.0}
"""Keep text as text, and make equal files from equal results."""


def panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each panel by its title: the cases with ``MAIN_CONNECTIONS`` calls in flight."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.case in CASES and row.samples and row.cell.load.in_flight == MAIN_CONNECTIONS:
            found.setdefault(str(row.cell), []).append(row)
    return found


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write an SVG. Raises Failed if matplotlib is not installed, or without rows to draw."""
    if not (shown := panels(rows)):
        raise Failed("no picture: nothing was measured that it shows")
    try:
        # By name: it is only in the extra "bench", and takes a second to load.
        matplotlib, figure = (importlib.import_module(name) for name in ("matplotlib", "matplotlib.figure"))
    except ImportError as error:
        raise Failed(f"no picture, because matplotlib is not installed: {error}") from error
    heights = [_INCHES_A_PANEL + _INCHES_A_BAR * len(of) for of in shown.values()]
    with matplotlib.rc_context(_SETTINGS):
        picture = figure.Figure(figsize=(9, sum(heights)), layout="constrained")
        axes = picture.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (title, of) in zip(axes, shown.items(), strict=True):
            _panel(axis, title, of)
        picture.savefig(path, metadata={"Date": None})


def _panel(axis: Any, title: str, rows: Sequence[Row]) -> None:
    """Draw horizontal bars, fastest first."""
    upwards = sorted(rows, key=lambda row: row.rate)
    bars = axis.barh(
        [f"{row.case.title}{' (calls failed)' if row.failures else ''}" for row in upwards],
        [row.rate for row in upwards],
        color=[OURS if row.case.server in {"embedded", "proxied"} else PEERS for row in upwards],
    )
    axis.bar_label(bars, labels=[f"{row.rate:,.0f}/s, {row.cpu_us:,.0f} µs CPU" for row in upwards], padding=3)
    axis.set_title(title, loc="left", fontweight="bold")
    axis.set_xlim(right=upwards[-1].rate * 1.35)  # room for the label of the longest bar
    axis.xaxis.set_visible(False)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
