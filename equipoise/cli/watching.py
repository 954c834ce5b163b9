"""What is seen of a run while it goes on: a bar, and a line an epoch, on stderr."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from equipoise.training import Progress

__all__ = ["Watch"]


class Watch:
    """Bars on stderr; where that is no terminal, lines alone.

    Args:
        quiet: whether to leave out the lines.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.task: Any = None
        self.what: Any = None

    def __enter__(self) -> Watch:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def say(self, line: str) -> None:
        """A line above the bar."""
        if not self.quiet:
            self.console.print(line, markup=False)

    def _show(self, what: Any, text: str, done: int, total: int) -> None:
        if what != self.what:
            if self.task is not None:
                self.bars.remove_task(self.task)
            self.what, self.task = what, self.bars.add_task(text, total=total)
        self.bars.update(self.task, description=text, completed=done)

    def reading(self, done: int, total: int) -> None:
        """So many images are decoded."""
        self._show("reading", "reading images", done, total)

    def training(self, now: Progress, name: str = "") -> None:
        """A batch or an epoch is done."""
        text = f"{name + ': ' if name else ''}epoch {now.epoch + 1}/{now.epochs}"
        self._show(
            ("training", name),
            text,
            now.epoch * now.batches + now.batch,
            now.epochs * now.batches,
        )
        if now.row is not None:
            self.say(f"{text}  {_words(now.row)}  {now.row['seconds']:.1f} s")


def _words(row: dict[str, Any]) -> str:
    words = [f"loss {row['loss']:.3f}"]
    if "mean_average_precision" in row:
        words.append(f"hold-out AUPRC {row['mean_average_precision']:.3f}")
    elif "mean_recall" in row:
        words.append(
            f"hold-out recalls: mean {row['mean_recall']:.3f}, sd {row['sd_recall']:.3f}, "
            f"lowest {row['lowest_recall']:.3f}"
        )
    return "  ".join(words)
