"""Report: plain numbers of a balanced training, and the ways to look at them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["Report"]

VERSION = 1


@dataclass(frozen=True)
class Report:
    """What was unbalanced, what was done, what it changed and what it cost. C classes.

    Made by `make_report`. All attributes are plain JSON types; a number that is not known is
    `None`.

    Attributes:
        title: of the page.
        multilabel: whether an example carries several labels.
        num_examples: of the training set.
        names: C names.
        counts: `(C,)` training examples of each class.
        parts: names of policy, sampler, loss, mining and decision; `sampler_share` of λ.
        drawn: `(C,)` how many examples of each class an epoch draws now; `None` if not known.
        log_weight: `(C,)` λ now, which the next epoch would be drawn under.
        epochs: a dict for each epoch, from `Balancer.history`.
        before: "recalls" `(C,)` and their "source": "baseline", "first epoch", "as trained" (of the
            evaluation, before the decision) or `None`.
        after: "recalls" `(C,)` of the "source" "evaluation" or "last epoch", or `None`; "support"
            `(C,)` of them where it is known.
        evaluation: what the given logits and targets show; `None` without.
        seconds: what took how long, as given.
    """

    title: str
    multilabel: bool
    num_examples: int
    names: list[str]
    counts: list[int]
    parts: dict[str, Any]
    drawn: list[float] | None
    log_weight: list[float]
    epochs: list[dict[str, Any]]
    before: dict[str, Any]
    after: dict[str, Any]
    evaluation: dict[str, Any] | None
    seconds: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for `from_dict`."""
        return {"equipoise_report": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, saved: Any) -> Report:
        """The report whose `to_dict` is given, also by way of JSON.

        Raises:
            ValueError: something else, or of another version, or incomplete.
        """
        version = saved.get("equipoise_report") if isinstance(saved, dict) else None
        if version is None:
            raise ValueError(
                'Expected saved to be the dict of Report.to_dict, with "equipoise_report", '
                f"but got {type(saved).__name__} without."
            )
        if version != VERSION:
            raise ValueError(f"Expected saved to be of version {VERSION}, but got {version!r}.")
        names = {field.name for field in fields(cls)}
        if missing := sorted(names - saved.keys()):
            raise ValueError(f"Expected saved to have {', '.join(missing)}, but got none.")
        report = cls(**{name: saved[name] for name in names})
        report._check()
        return report

    def _check(self) -> None:
        """Raise where a list does not have a value a class."""
        classes = len(self.names)
        lists: dict[str, list | None] = {
            "counts": self.counts,
            "log_weight": self.log_weight,
            "drawn": self.drawn,
        }
        for part in ("before", "after"):
            lists[f"{part} recalls"] = getattr(self, part)["recalls"]
        for i, row in enumerate(self.epochs):
            lists |= {f"{key} of row {i}": row.get(key) for key in ("recalls", "log_weight")}
        for name, values in lists.items():
            if values is not None and len(values) != classes:
                raise ValueError(
                    f"Expected {name} to be {classes} numbers, one a class, but got {len(values)}."
                )

    def show(self, most: int = 20) -> None:
        """Print it: what happened in sentences, then a row a class, at most `most` of them.

        Of more classes, those of the lowest recalls now and those that changed most are shown.
        Needs rich.
        """
        from equipoise.report.terminal import show

        show(self, most)

    def save_html(self, path: str | Path) -> Path:
        """Write one HTML file with everything in it, which opens offline; returns its path.

        Needs matplotlib.
        """
        from equipoise.report.page import page

        path = Path(path)
        path.write_text(page(self), encoding="utf-8")
        return path

    def save_pictures(self, folder: str | Path, suffix: str = ".png") -> list[Path]:
        """Write every picture into a folder, which is made if needed; returns their paths.

        Needs matplotlib, and takes any suffix that it can write.
        """
        from equipoise.report.drawing import save
        from equipoise.report.pictures import pictures

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return [save(picture, folder / f"{picture.name}{suffix}") for picture in pictures(self)]

    def log_to(self, writer: Any, step: int | None = None) -> None:
        """Write scalars of every epoch, the result and the pictures to TensorBoard.

        Scalars of an epoch are written at its number, counted from 0 as in `Balancer.history`; of
        up to 50 classes also each recall and log-weight.

        Args:
            writer: a `torch.utils.tensorboard.SummaryWriter`.
            step: where result and pictures are written; by default at the last epoch.
        """
        from equipoise.report.tensorboard import log

        log(self, writer, step)
