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
        ignore_index: the class id that is not counted.
        in_training: whether the recalls of the training batches are to be followed.

    Attributes:
        rates: `ClassRates` or `LabelRates` of the logits as the network gives them.
        corrected: `ClassRates` of the corrected logits; `None` for labels.
        training: `ClassRates` of the training batches, if a policy follows them, or `None`.
        given: `GivenRates`, of whoever measures rates of their own.
    """

    def __init__(
        self,
        num_classes: int,
        multilabel: bool,
        ignore_index: int = -100,
        in_training: bool = False,
    ) -> None:
        self.rates: ClassRates | LabelRates
        self.corrected: ClassRates | None = None
        self.training = ClassRates(num_classes, ignore_index) if in_training else None
        if multilabel:
            self.rates = LabelRates(num_classes)
        else:
            self.rates = ClassRates(num_classes, ignore_index)
            self.corrected = ClassRates(num_classes, ignore_index)
        self.given = GivenRates(num_classes)

    def update(self, logits: Tensor, targets: Tensor, corrected: Tensor) -> None:
        """Count a batch; nothing waits for the device."""
        self.rates.update(logits, targets)
        if self.corrected is not None:
            self.corrected.update(corrected, targets)

    def count(self, nan: Tensor, predicted: Tensor, corrected: Tensor, targets: Tensor) -> None:
        """Count ids `(B,)` that are decided already, see `ClassRates.count`."""
        for rates, ids in ((self.rates, predicted), (self.corrected, corrected)):
            if isinstance(rates, ClassRates):
                rates.count(nan, ids, targets)

    @property
    def followed(self) -> ClassRates | LabelRates | GivenRates:
        """What a policy is to follow: the rates that were given, if any, those in training, …"""
        if bool(self.given.support.any()):
            return self.given
        return self.rates if self.training is None else self.training

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
        where balance gains. Without examples there are no recalls, and `price` is `None`. For
        pixels and tokens there are also `ious` with their mean, `images` in which each class was
        seen, and `recall_errors`, see `ClassRates`.
        """
        rates, seen = self.rates, self.support.numpy() > 0
        row: dict[str, Any] = {"num_nan": rates.num_nan, "num_invalid": rates.num_invalid}
        row["price"] = None
        if self.followed is self.given:
            known = self.given.support > 0
            row["rates"] = self.given.recalls().where(known, torch.nan).tolist()
        if self.training is not None:
            row["training_recalls"] = self.training.recalls().tolist()
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
        if isinstance(rates, ClassRates) and rates.elements:
            ious = np.where(seen, rates.ious().numpy(), np.nan)
            row |= {"mean_iou": float(ious[seen].mean()), "ious": ious.tolist()}
            row |= {"images": rates.images.tolist(), "accuracy": rates.accuracy()}
            row["recall_errors"] = rates.recall_errors().tolist()
        return row | {
            "recalls": np.where(seen, recalls, np.nan).tolist(),
            "support": rates.support.tolist(),
            "mean_recall": float(recalls[seen].mean()),
            "sd_recall": float(recalls[seen].std()),
            "lowest_recall": float(recalls[seen].min()),
        }

    def sum_over_ranks(self) -> None:
        """Add up the counts of all ranks of torch.distributed. Every rank has to call it."""
        for rates in self._parts().values():
            rates.sum_over_ranks()

    def reset(self) -> None:
        """Forget everything counted."""
        for rates in self._parts().values():
            rates.reset()

    def state_dict(self) -> dict[str, Any]:
        return {name: rates.state_dict() for name, rates in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, rates in self._parts().items():
            rates.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "rates": self.rates,
            "corrected": self.corrected,
            "training": self.training,
            "given": self.given,
        }
        return {name: rates for name, rates in parts.items() if rates is not None}
