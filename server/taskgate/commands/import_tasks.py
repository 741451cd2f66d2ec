"""``taskgate import``: load files into a store; show progress on a terminal, list rejects, print a summary."""

import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from taskgate.base.errors import StoreUnavailable
from taskgate.base.printable import printable
from taskgate.base.settings import Settings
from taskgate.importing import ImportSummary, Progress, Reject, Source
from taskgate.importing import run_import as import_sources
from taskgate.stores import open_writer, store_name

_BAR_WIDTH = 30
_REDRAW_SECONDS = 0.1
_INTERRUPTED = 130  # the shells' exit code for a program that Ctrl-C ended


def run_import(settings: Settings, files: Sequence[str], *, quiet: bool) -> int:
    """Import ``files``, print rejects and the summary on standard error, and return the exit code.

    It is 0 if everything is in the store, 1 if something was rejected or the store failed, 130 after Ctrl-C.
    Raises SettingsError or StoreUnavailable if the store cannot be written to at all.
    """
    screen = _Screen(show_progress=not quiet and sys.stderr.isatty())
    started = time.monotonic()
    with open_writer(settings.store, settings.layout) as writer:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # raises KeyboardInterrupt, for the summary
        summary = import_sources(
            [Source.of(name) for name in files],
            writer,
            settings.task_id_format,
            on_progress=screen.progress,
            on_reject=screen.reject,
        )
    screen.clear()
    click.echo(_summary(summary, store_name(settings.store), time.monotonic() - started), err=True)
    if isinstance(summary.stopped_by, KeyboardInterrupt):
        return _INTERRUPTED
    return 0 if summary.complete else 1


class _Screen:
    """Standard error: lines for rejects, and below them, on a terminal, one line of progress."""

    def __init__(self, *, show_progress: bool) -> None:
        self._show_progress = show_progress
        self._drawn = ""
        self._drawn_at = 0.0

    def progress(self, progress: Progress) -> None:
        """Draw the progress line anew, at most ten times a second."""
        now = time.monotonic()
        if self._show_progress and now - self._drawn_at >= _REDRAW_SECONDS:
            self.clear()
            self._drawn = printable(_progress_line(progress))
            self._drawn_at = now
            click.echo(self._drawn, err=True, nl=False)

    def reject(self, reject: Reject) -> None:
        """Print one rejected document as ``file:line: reason``."""
        self.clear()
        place = reject.source if reject.line is None else f"{reject.source}:{reject.line}"
        click.echo(printable(f"{place}: {reject.reason}"), err=True)

    def clear(self) -> None:
        """Wipe the progress line."""
        if self._drawn:
            click.echo(f"\r{' ' * len(self._drawn)}\r", err=True, nl=False)
            self._drawn = ""


def _progress_line(progress: Progress) -> str:
    counts = f"{progress.documents:,} tasks" + (f", {progress.rejects:,} rejected" if progress.rejects else "")
    if not progress.total_bytes:
        return f"{progress.source}  {progress.bytes_read / 1e6:,.0f} MB  {counts}"
    part = min(progress.bytes_read / progress.total_bytes, 1)
    bar = ("#" * round(part * _BAR_WIDTH)).ljust(_BAR_WIDTH)
    return f"{progress.source}  [{bar}] {part:4.0%}  {counts}"


def _summary(summary: ImportSummary, store: str, seconds: float) -> str:
    """Describe the result in a sentence or two; with several files, count the rejects of each."""
    written: Any = summary.written
    text = (
        f"{printable(store)}: {written.added:,} added, {written.replaced:,} replaced, {written.unchanged:,} unchanged,"
        f" {written.older:,} older than what is stored (kept), {summary.rejects:,} rejected, in {seconds:.1f} s"
    )
    if len(summary.sources) > 1:
        for source in summary.sources:
            if source.rejects:
                text += f"\n  {printable(source.name)}: {source.rejects:,} rejected"
    if isinstance(summary.stopped_by, KeyboardInterrupt):
        text += f"\ntaskgate: interrupted; {_store_error(summary.stopped_by)}the tasks counted above are stored"
        text += ", and the import can be run again"
    elif summary.stopped_by is not None:
        text += f"\ntaskgate: {printable(summary.stopped_by.private)}; the tasks counted above are stored"
    return text


def _store_error(interrupt: BaseException) -> str:
    """The store's error that Ctrl-C interrupted, as the beginning of a sentence, or ""."""
    error: BaseException | None = interrupt
    while error is not None and not isinstance(error, StoreUnavailable):
        error = error.__context__
    return "" if error is None else f"{printable(error.private)}; "
