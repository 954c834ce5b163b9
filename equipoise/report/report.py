"""Report: plain numbers of a balanced training, and the ways to look at them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from equipoise.figures import save
from equipoise.report.pictures import pictures
from equipoise.report.views import log, page, show

__all__ = ["Report", "load"]

VERSION = 2


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
        known: `(C,)` training examples in which it is known whether the class is there.
        parts: the names of policy, sampler, loss, mining and of the decision's objective; the
            `sampler_share` of λ and `num_samples` of an epoch.
        draws: `(C,)` how many examples of each class the next epoch draws on average.
        log_weight: `(C,)` λ, the class log-weights that the next epoch would be drawn under.
        epochs: a dict for each epoch, from `Balancer.history`.
        outcomes: a dict for each way to predict, the one to compare with first and the current one
            last: its "name", "recalls" `(C,)`, "precisions" and "predicted" `(C,)` or `None`, the
            "mean", "sd" and "lowest" of the recalls, the class "worst", the sd that "chance" alone
            would leave, and the "price": mean recall of the plain decision less this one's.
        support: `(C,)` examples of each class that the outcomes are of.
        evaluation: what is known of the logits and targets given: "num_examples", "num_left_out",
            and for labels "average_precisions" and "reliability"; `None` without.
        decision: "objective", "values" `(C,)`, "price", "equality_price" and the "front" of the
            fitted decision; `None` without.
        max_price: the cap on the price that the front is shown with.
        num_groups: G where the C "classes" are cells class × group, or groups; `None` without.
    """

    title: str
    multilabel: bool
    num_examples: int
    names: list[str]
    counts: list[int]
    known: list[int]
    parts: dict[str, Any]
    draws: list[float]
    log_weight: list[float]
    epochs: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    support: list[int] | None
    evaluation: dict[str, Any] | None
    decision: dict[str, Any] | None
    max_price: float | None
    num_groups: int | None

    @property
    def kind(self) -> str:
        """What one of the C is called."""
        return "label" if self.multilabel else "class"

    @property
    def kinds(self) -> str:
        """What several of the C are called."""
        return "labels" if self.multilabel else "classes"

    @property
    def counted(self) -> str:
        """What the counts are of: examples, or the elements that examples carry, such as pixels."""
        each = self.multilabel or sum(self.counts) == self.num_examples
        return "examples" if each else "elements"

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
        if version != VERSION:
            got = f"a {type(saved).__name__} without" if version is None else f"version {version}"
            raise ValueError(
                f"Expected saved to be the dict of Report.to_dict of version {VERSION}, but got "
                f"{got}."
            )
        if missing := sorted({field.name for field in fields(cls)} - saved.keys()):
            raise ValueError(f"Expected saved to have {', '.join(missing)}, but got none.")
        return cls(**{field.name: saved[field.name] for field in fields(cls)})

    def save(self, path: str | Path) -> Path:
        """Write the numbers as JSON, for `load` and for the command `equipoise report`.

        Args:
            path: a file that ends in .json; or a folder, which is made if needed and in which the
                file is called report.json.

        Returns:
            The path of the file.
        """
        path = _file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), allow_nan=False), encoding="utf-8")
        return path

    def show(self, most: int = 20) -> None:
        """Print it: what happened in sentences, then a table of at most `most` classes.

        Of more classes, those of the lowest recalls and those that changed most are shown. Needs
        rich.
        """
        show(self, most)

    def save_html(self, path: str | Path) -> Path:
        """Write one HTML file with everything in it, which opens offline; returns its path.

        Needs matplotlib and jinja2.
        """
        path = Path(path)
        path.write_text(page(self), encoding="utf-8")
        return path

    def save_pictures(self, folder: str | Path, suffix: str = ".png") -> list[Path]:
        """Write every picture into a folder, which is made if needed; returns their paths.

        Needs matplotlib, and takes any suffix that it can write.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return [save(found.figure, folder / f"{found.name}{suffix}") for found in pictures(self)]

    def log_to(self, writer: Any, step: int | None = None) -> None:
        """Write scalars of every epoch, the outcomes and the pictures to TensorBoard.

        Scalars of an epoch are written at its number, counted from 0 as in `Balancer.history`; of
        up to 50 classes also each recall and log-weight.

        Args:
            writer: a `torch.utils.tensorboard.SummaryWriter`.
            step: where outcomes and pictures are written; by default at the last epoch.
        """
        log(self, writer, step)


def load(path: str | Path) -> Report:
    """The report that `Report.save` wrote to this path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a report.
    """
    path = Path(path) if Path(path).is_file() else _file(path)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected {path} to be JSON, but: {error}.") from error
    return Report.from_dict(saved)


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / "report.json"
