"""Decisions: what was fitted on a hold-out, and how it turns logits into predictions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["ClassDecision", "LabelDecision"]


D = TypeVar("D", bound="_Saved")


class _Saved:
    """A dataclass of which some fields become a small JSON file."""

    saved: ClassVar[tuple[str, ...]]
    renamed: ClassVar = {"corrected": "of_corrected_logits"}  # in the file
    dtype: ClassVar[torch.dtype]  # of `values`

    def save(self, path: str | Path, names: list[str] | None = None) -> None:
        """Write a small JSON file, for other languages and frameworks; `null` stands for ∞."""
        record: dict[str, Any] = {"classes": names}
        for name in self.saved:
            value = getattr(self, name)
            many = value.tolist() if isinstance(value, Tensor) else [value]
            many = [None if each == torch.inf else each for each in many]
            record[self.renamed.get(name, name)] = many if isinstance(value, Tensor) else many[0]
        Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls: type[D], path: str | Path) -> D:
        """Read what `save` wrote."""
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        fields = {name: record[cls.renamed.get(name, name)] for name in cls.saved}
        values = [torch.inf if each is None else each for each in fields["values"]]
        return cls(**fields | {"values": torch.tensor(values, dtype=cls.dtype)})

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]


@dataclass(eq=False)
class ClassDecision(_Saved):
    """Predicts arg max_c z_c + offset_c.

    Attributes:
        objective: what the offsets were fitted to.
        values: `(C,)` float64 offsets, mean zero. They can be added to the bias of the last layer.
        corrected: whether z are the logits that `Balancer.correct` gives, instead of the network's.
        alpha: α of the point of the front, see `fair_offset`; `None` for other objectives.
        price: mean recall, on examples the offsets were not fitted on, that it costs against the
            highest there is; `None` where it was not measured.
        gain: in mean IoU on images the offsets were not fitted on, of "iou"; else `None`.
        equality_price: the predicted price of full equality, see `price_of_equality`, or `None`.
        front: rows of `equipoise.decision.front`, or an empty list.
    """

    objective: str
    values: Tensor
    corrected: bool = False
    alpha: float | None = None
    price: float | None = None
    equality_price: float | None = None
    front: list[dict[str, Any]] = field(default_factory=list)
    gain: float | None = None

    saved = ("objective", "alpha", "price", "corrected", "values")
    renamed: ClassVar = _Saved.renamed | {"values": "offset"}
    dtype = torch.float64

    def __call__(self, logits: Tensor) -> Tensor:
        """Class ids, `(N,)` or `(N, d1, …)`, of logits `(N, C)` or `(N, C, d1, …)`."""
        logits = torch.as_tensor(logits)
        values = self.values.to(logits)
        return (logits + values.view(-1, *[1] * (logits.ndim - 2))).argmax(1)

    def under_prior(self, before: Any, after: Any) -> ClassDecision:
        """The decision where classes come with other frequencies than in the hold-out.

        Adds log(after_c / before_c) to each offset, which is Bayes' rule for a changed prior
        (Saerens et al. 2002). Recalls, which do not depend on how frequent a class is, change with
        it: this is for whoever wants accuracy there.

        Args:
            before: `(C,)` frequencies or counts above 0 that the offsets are meant for.
            after: `(C,)` those of the data to decide on.

        Example:
            >>> decision = ClassDecision("fair", torch.zeros(2, dtype=torch.float64))
            >>> decision.under_prior([1, 1], [3, 1]).values
            tensor([ 0.5493, -0.5493], dtype=torch.float64)
        """
        shift = torch.zeros_like(self.values)
        for name, prior, sign in (("before", before, -1), ("after", after, 1)):
            prior = torch.as_tensor(prior, dtype=torch.float64)
            if prior.shape != self.values.shape or not bool((prior > 0).all()):
                raise ValueError(
                    f"Expected {name} to be {len(self.values)} frequencies above 0, but got "
                    f"{prior.tolist()}."
                )
            shift += sign * prior.log()
        values = self.values + shift
        return ClassDecision(self.objective, values - values.mean(), self.corrected, self.alpha)


@dataclass(eq=False)
class LabelDecision(_Saved):
    """Predicts a label where its corrected logit is above its threshold, or the k best labels.

    Attributes:
        objective: what was fitted.
        values: `(C,)` float32 thresholds; for "top-k", what is added to a label's log-probability
            before the k largest are taken, see `top_k`.
        corrected: as for `ClassDecision`.
        k: labels an example, of "top-k" only.
        rate: what a point of macro recall is worth in points of precision, of "top-k" only.
        front: rows of `top_k_front`, of "top-k" only.
    """

    objective: str
    values: Tensor
    corrected: bool = True
    k: int | None = None
    rate: float | None = None
    front: list[dict[str, Any]] = field(default_factory=list)

    saved = ("objective", "corrected", "k", "rate", "values")
    dtype = torch.float32

    def __call__(self, logits: Tensor) -> Tensor:
        """`(N, C)` uint8 of logits `(N, C)`."""
        logits = torch.as_tensor(logits)
        if self.k is None:
            return (logits > self.values.to(logits.device)).to(torch.uint8)
        return torch.zeros_like(logits, dtype=torch.uint8).scatter_(1, self.top(logits), 1)

    def top(self, logits: Tensor) -> Tensor:
        """`(N, k)` label ids, the best first, of logits `(N, C)`."""
        if self.k is None:
            raise ValueError(
                f'Expected a decision of the objective "top-k", but got {self.objective!r}.'
            )
        worth = logsigmoid(torch.as_tensor(logits).float())
        return (worth + self.values.to(worth)).topk(self.k, 1).indices
