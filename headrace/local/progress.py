"""What a person sees while parts are fetched and started."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from collections.abc import Callable


class Progress(Protocol):
    """Where the stack tells how far it is. Called from one thread at a time."""

    def say(self, text: str) -> None:
        """A step worth a line."""
        ...

    def fetched(self, what: str, done: int, total: int) -> None:
        """So many of `total` bytes are here; the last call has both the same."""
        ...

    def close(self) -> None:
        """No more bytes will come, all here or not: leave the terminal tidy. Lines may still be said."""
        ...


class Silent:
    """For tests."""

    def say(self, text: str) -> None:
        del text

    def fetched(self, what: str, done: int, total: int) -> None:
        del what, done, total

    def close(self) -> None:
        pass


class Checked:
    """Passes on what is told, and asks first whether it is of use to go on: `check` raises where it isn't."""

    def __init__(self, progress: Progress, check: Callable[[], None]) -> None:
        self._progress = progress
        self._check = check

    def say(self, text: str) -> None:
        self._check()
        self._progress.say(text)

    def fetched(self, what: str, done: int, total: int) -> None:
        self._check()
        self._progress.fetched(what, done, total)

    def close(self) -> None:
        self._progress.close()


class Lines:
    """A line for each step and each quarter of a download: for logs and pipes."""

    def __init__(self) -> None:
        self._quarter: dict[str, int] = {}

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody looks any more: no reason to stop
            click.echo(text, err=True)

    def fetched(self, what: str, done: int, total: int) -> None:
        quarter = 4 * done // total if total else 4
        if quarter != self._quarter.get(what, -1):
            self._quarter[what] = quarter
            self.say(f"  {what}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    def close(self) -> None:
        pass


class Bar:
    """A moving bar while something is fetched: for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, int] = {}

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def fetched(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
            self._bar.start()
        self._bar.update(self._tasks[what], completed=done)  # type: ignore[arg-type]
        if done >= total:
            self._bar.stop()

    def close(self) -> None:
        self._bar.stop()


def for_terminal(*, terminal: bool) -> Progress:
    """A bar on a terminal, lines elsewhere."""
    return Bar() if terminal else Lines()
