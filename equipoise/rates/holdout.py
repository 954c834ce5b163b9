"""HoldoutRates: what a Balancer has seen of its hold-out since the last step, or was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.rates.base import Rates
from equipoise.rates.class_rates import ClassRates
from equipoise.rates.label_rates import LabelRates, average_precisions
from equipoise.rates.smoothing import smoothed_recalls

__all__ = ["GivenRates", "HoldoutRates"]


class GivenRates(Rates):
    """Means of the rates given for each class, such as success rates, AP or excess losses.

    Args:
        num_classes: C.

    Example:
        >>> rates = GivenRates(3)
        >>> rates.update([0.5, 1.0, float("nan")], support=[30, 10, 0])
        >>> rates.update([0.9, 0.0, float("nan")], support=[10, 10, 0])
        >>> rates.recalls().tolist(), rates.support.tolist()
        ([0.6, 0.5, 0.55], [40.0, 20.0, 0.0])
    """

    counted = ("_sums",)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._sums = torch.zeros(3, num_classes, dtype=torch.float64)

    def update(self, rates: Any, support: Any = None, *, losses: bool = False) -> None:
        """Count rates of each class, each the mean of `support` examples; or all alike.

        Args:
            rates: `(C,)` in [0, 1], NaN where not known.
            support: `(C,)` numbers of examples; `None` where they are not known.
            losses: whether the rates may be any finite numbers.
        """
        values, weight = _vector(rates), torch.ones(self._sums.shape[1], dtype=torch.float64)
        outside = values.isinf() if losses else (values < 0) | (values > 1)
        if values.shape != weight.shape or outside.any():
            kind = "finite numbers" if losses else "numbers in [0, 1]"
            mend = "" if losses else " The policy DoReMi takes losses of any size."
            raise ValueError(
                f"Expected rates to be {len(weight)} {kind}, one for each class and NaN where it "
                f"is not known, but got {rates}.{mend}"
            )
        if support is not None:
            weight = _vector(support)
            if weight.shape != values.shape or not ((weight == 0) | (weight >= 1)).all():
                raise ValueError(
                    f"Expected support to be {len(values)} numbers of examples, but got {support}."
                )
        weight = weight.where(~values.isnan(), 0)
        exact = losses or support is None
        self._sums += torch.stack([values.nan_to_num() * weight, weight, weight * exact])

    @property
    def support(self) -> Tensor:
        """`(C,)` float64 examples, or calls without support, that each rate is the mean of."""
        return self._sums[1]

    def recalls(self, prior: float | None = 0.0) -> Tensor:
        """`(C,)` float64 means; those of classes without any are the mean of the others'.

        With `prior` drawn together as recalls are (`smoothed_recalls`), if every call had support;
        losses never are.
        """
        sums, support, exact = self._sums
        return smoothed_recalls(sums, support, 0.0 if exact.any() else prior)


def _vector(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu().double()
    return torch.from_numpy(np.array(values, np.float64))


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
        if multilabel:
            self.rates = LabelRates(num_classes)
        else:
            self.rates = ClassRates(num_classes, ignore_index)
            self.corrected = ClassRates(num_classes, ignore_index)
        self.training = ClassRates(num_classes, ignore_index) if in_training else None
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
            both = average_precisions(*rates.histograms())
            names = "mean_average_precision", "average_precision_range"
            row |= {name: float(each.nanmean()) for name, each in zip(names, both, strict=True)}
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

    def _parts(self) -> dict[str, Rates]:
        return {name: rates for name, rates in vars(self).items() if rates is not None}
