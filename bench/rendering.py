"""Tables as text, aligned for a terminal, or as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, column names and cells; the first column is text, all others are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str] = ()


def as_text(table: Table) -> str:
    """For a terminal."""
    cells = [table.columns, *table.rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(table.columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join((table.title.upper(), lines[0], rule, *lines[1:], *table.notes))


def as_markdown(table: Table) -> str:
    """For a page."""
    lines = [_markdown_row(table.columns), _markdown_row(["---", *["---:"] * (len(table.columns) - 1)])]
    lines += [_markdown_row(row) for row in table.rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join((f"## {table.title}", "", *lines, *([""] if notes else []), *notes))


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def number(value: float) -> str:
    """A number with what matters of it: ``31,250``, ``12.5``, ``0.84``."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if abs(value) >= 10 else f"{value:.2f}".rstrip("0").removesuffix(".")
