"""Show progress: a bar with the remaining time on a terminal or in a notebook, and a line from time to time elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from edgekit import terminal
from edgekit.terminal import echo, new_console
from edgekit.text import visible


class Advance(Protocol):
    """Called with the number of steps done since the last call and, optionally, a note to show beside the bar."""

    def __call__(self, steps: int = 1, note: str = "") -> None: ...


_LINE_EVERY_SECONDS = 15.0
_UPDATE_EVERY_SECONDS = 0.5
_relay: Callable[[str], None] | None = None


@contextmanager
def progress(title: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
    """Show the progress of `total` steps on standard error, of which `done` are already done.

    On a terminal and in a Jupyter notebook: a bar with elapsed and remaining time. Elsewhere: one line every 15 s, so none for shorter
    work. Inside `relayed`: passed to its function.
    """
    if _relay is not None:
        yield _relaying(_relay, title, total, done, unit)
    elif _in_notebook():
        with _cell(title, total, done, unit) as advance:
            yield advance
    elif sys.stderr.isatty():
        with _bar(title, total, done, unit) as advance:
            yield advance
    else:
        yield _lines(title, total, done, unit)


@contextmanager
def relayed(tell: Callable[[str], None]) -> Iterator[None]:
    """Pass progress to a function instead of showing it: for a process whose parent shows the progress of several.

    Args:
        tell: called with a line such as `calibrate 120/300 images`, at most every half second.
    """
    global _relay  # noqa: PLW0603 - it replaces standard error, which is also global
    before, _relay = _relay, tell
    try:
        yield
    finally:
        _relay = before


def say(text: str) -> None:
    """Print which step begins, in a line on standard error; inside `relayed`, pass it to its function."""
    if _relay is not None:
        _relay(text)
    else:
        echo(text, err=True)


def _relaying(tell: Callable[[str], None], title: str, total: int, done: int, unit: str) -> Advance:
    last = -_UPDATE_EVERY_SECONDS

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last >= _UPDATE_EVERY_SECONDS:
            last = time.monotonic()
            tell(f"{title} {done}/{total} {unit} {note}".rstrip())

    advance(0)
    return advance


@contextmanager
def _bar(title: str, total: int, done: int, unit: str) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<12}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(),
        TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    # Rich would send what is printed on standard output to standard error, above the bar, also where it goes into a file or a pipe.
    above = sys.stdout.isatty()
    with Progress(*columns, console=new_console(stderr=True), transient=False, redirect_stdout=above) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            if note:
                bar.update(task, advance=steps, note=note)
            else:
                bar.update(task, advance=steps)

        yield advance


def _in_notebook() -> bool:
    """Whether this process is a notebook's kernel, without importing IPython. IPython in a terminal has no kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class _PlainText:
    """A text that a notebook shows unchanged."""

    def __init__(self, text: str) -> None:
        self.text = visible(text)

    def __repr__(self) -> str:
        return self.text


_CELL_BAR = 30  # characters
_SHORT_SECONDS = 0.5


class _Place:
    """A line of a cell's output."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._before = self._now()

    def _now(self) -> tuple[object, int]:
        shell = sys.modules["IPython"].get_ipython()
        return getattr(shell, "execution_count", None), terminal.echoed()

    @property
    def is_last(self) -> bool:
        """Whether the cell is the same, and nothing was said in it since."""
        return self._before == self._now()

    def show(self, text: str) -> None:
        self._display.update(_PlainText(text))


_over: _Place | None = (
    None  # of work that was over at once: what comes next takes it, so that short work does not fill the page
)


@contextmanager
def _cell(title: str, total: int, done: int, unit: str) -> Iterator[Advance]:
    """Show progress in one line of a cell's output that is updated: it needs no widgets, and a saved notebook keeps the last state."""
    global _over  # noqa: PLW0603 - as a cell's output is of the whole process
    from IPython.display import display

    began, last, at_start, latest = time.monotonic(), 0.0, done, ""

    def text() -> str:
        seconds = time.monotonic() - began
        rate = (done - at_start) / seconds if seconds > 0 else 0.0
        remaining = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
        full = _CELL_BAR if total <= 0 else min(_CELL_BAR, _CELL_BAR * done // total)
        bar = "█" * full + "░" * (_CELL_BAR - full)
        return f"{title:<12} {bar} {done}/{total} {unit}  {duration(seconds)}{remaining}  {latest}".rstrip()

    place, _over = _over, None
    if place is not None and place.is_last:
        place.show(text())
    else:
        place = _Place(display(_PlainText(text()), display_id=True))

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, last, latest
        done += steps
        latest = note or latest
        if time.monotonic() - last >= _UPDATE_EVERY_SECONDS:
            last = time.monotonic()
            place.show(text())

    try:
        yield advance
    finally:
        place.show(text())
        if time.monotonic() - began < _SHORT_SECONDS:
            _over = place


def _lines(title: str, total: int, done: int, unit: str) -> Advance:
    began = last = time.monotonic()
    at_start, latest = done, ""

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, last, latest
        done += steps
        latest = note or latest
        now = time.monotonic()
        if now - last >= _LINE_EVERY_SECONDS:
            last = now
            rate = (done - at_start) / (now - began)
            eta = f", {duration((total - done) / rate)} left" if rate > 0 and done < total else ""
            echo(f"{title}: {done}/{total} {unit}{eta}  {latest}".rstrip(), err=True)

    return advance


def duration(seconds: float) -> str:
    """Format a duration: 6:12, or 1:06:12."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
