"""HoldoutRates: what a Balancer has seen of its hold-out since the last step."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.rates.class_rates import ClassRates
from equipoise.rates.given import GivenRates
from equipoise.rates.label_rates import LabelRates

__all__ = ["HoldoutRates"]


class HoldoutRates:
    """Recalls of the network as it decides, and for class ids what its balance costs.

    Args:
        num_classes: C.
        multilabel: whether targets are labels; then recalls are those of `LabelRates`.

    Attributes:
        rates: `ClassRates` or `LabelRates` of the logits as the network gives them.
        corrected: `ClassRates` of the corrected logits; `None` for labels.
        given: `GivenRates`, of whoever measures rates of their own.
    """

    def __init__(self, num_classes: int, multilabel: bool) -> None:
        self.rates = LabelRates(num_classes) if multilabel else ClassRates(num_classes)
        self.corrected = None if multilabel else ClassRates(num_classes)
        self.given = GivenRates(num_classes)

    def update(self, logits: Tensor, targets: Tensor, corrected: Tensor) -> None:
        """Count a batch; nothing waits for the device."""
        self.rates.update(logits, targets)
        if self.corrected is not None:
            self.corrected.update(corrected, targets)

    @property
    def followed(self) -> ClassRates | LabelRates | GivenRates:
        """What a policy is to follow: the rates that were given, if any were."""
        return self.given if bool(self.given.support.any()) else self.rates

    @property
    def support(self) -> Tensor:
        """`(C,)` int64 examples of each class, or positives of each label."""
        return self.rates.support

    def recalls(self, prior: float | None = 0.0) -> Tensor:
        """`(C,)` float64 on the CPU, see `ClassRates.recalls` and `LabelRates.recalls`."""
        return self.rates.recalls(prior)

    def summary(self) -> dict[str, Any]:
        """What was seen, as plain numbers. Classes without an example have recall NaN.

        `price` is the mean recall of arg max over the corrected logits, less that of arg max over
        the logits as they are: what balance costs as far as this network can tell. It is negative
        where balance gains. Without examples there are no recalls, and `price` is `None`.
        """
        rates, seen = self.rates, self.support.numpy() > 0
        row: dict[str, Any] = {"num_nan": rates.num_nan, "num_invalid": rates.num_invalid}
        row["price"] = None
        if self.followed is self.given:
            known = self.given.support > 0
            row["rates"] = self.given.recalls().where(known, torch.nan).tolist()
        if isinstance(rates, LabelRates):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the row says itself how far it may be off
                row["mean_average_precision"] = float(rates.average_precisions().nanmean())
            row["average_precision_range"] = rates.average_precision_range()
        if not seen.any():
            return row
        recalls = rates.recalls().numpy()
        if self.corrected is not None:
            row["price"] = float((self.corrected.recalls().numpy() - recalls)[seen].mean())
        return row | {
            "recalls": np.where(seen, recalls, np.nan).tolist(),
            "support": rates.support.tolist(),
            "mean_recall": float(recalls[seen].mean()),
            "sd_recall": float(recalls[seen].std()),
            "lowest_recall": float(recalls[seen].min()),
        }

    def sum_over_ranks(self) -> None:
        """Add up the counts of all ranks of torch.distributed. Every rank has to call it."""
        self.rates.sum_over_ranks()
        self.given.sum_over_ranks()
        if self.corrected is not None:
            self.corrected.sum_over_ranks()

    def reset(self) -> None:
        """Forget everything counted."""
        self.rates.reset()
        self.given.reset()
        if self.corrected is not None:
            self.corrected.reset()

    def state_dict(self) -> dict[str, Any]:
        corrected = None if self.corrected is None else self.corrected.state_dict()
        given = self.given.state_dict()
        return {"rates": self.rates.state_dict(), "corrected": corrected, "given": given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rates.load_state_dict(state["rates"])
        self.given.load_state_dict(state["given"])
        if self.corrected is not None:
            self.corrected.load_state_dict(state["corrected"])
