"""GivenRates: rates of the classes that somebody else has measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise._ranks import sum_over_ranks
from equipoise.rates.smoothing import smoothed_recalls

__all__ = ["GivenRates"]


class GivenRates:
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

    def __init__(self, num_classes: int) -> None:
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

    def sum_over_ranks(self) -> None:
        """Add up what all ranks of torch.distributed were given. Every rank has to call it."""
        self._sums = sum_over_ranks(self._sums)

    def reset(self) -> None:
        """Forget everything given."""
        self._sums = torch.zeros_like(self._sums)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = state["sums"].clone()


def _vector(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu().double()
    return torch.from_numpy(np.array(values, np.float64))
