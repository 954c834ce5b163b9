"""SelectiveBackprop: full batches of the examples worth a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from equipoise._order_sampler import require_int
from equipoise.mining.base import LoaderMiner, Settings, check_share
from equipoise.mining.hardest_examples import check_groups, hardest_examples


@contextmanager
def scoring(model: Any) -> Iterator[None]:
    """Without gradients, every module of `model` in evaluation mode; then all as before."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


class SelectiveBackprop(LoaderMiner):
    """Batches of chosen examples: `for images, labels in miner(loader, model, loss): …`.

    Each batch of the loader is scored by a forward pass without gradients; the chosen examples
    are collected, and come out in the order of the loader in batches of `batch_size`. About
    `keep` · len(loader) of them come out of a pass, so give the learning-rate schedule as many
    steps. What is saved is the backward pass (about two thirds of a step) of the examples that
    are dropped; the scoring costs a forward pass of all. Only the caller's own forward pass moves
    BatchNorm statistics, and between batches the model is in the mode the caller left it in.

    An example whose loss is NaN or infinite is never chosen, and counted in
    `tally.num_nonfinite`. To fill batches, it must be known how many were chosen: this waits for
    the device once a candidate batch. Several ranks get as many batches as each other as long as
    their loaders are of one length and no loss is NaN.

    Source: Jiang et al. 2019, "Accelerating Deep Learning by Focusing on the Biggest Losers".

    Args:
        keep: share in (0, 1] of the examples to learn from.
        per_class: whether each class keeps the same share. Needs class ids.
        trim: share of the largest losses to leave out.
        batch_size: of what comes out; by default that of the loader's first batch.
        drop_last: whether to drop the last batch of a pass if it is not full. BatchNorm cannot
            learn from a batch of one.
        resolution: factor in (0, 1] on height and width for scoring `(B, channels, H, W)` inputs.
        autocast: dtype to score in, such as `torch.bfloat16`; `None` as the model is.
        device: to move the loader's tensors to; by default that of the model's parameters.
        warm_up, final, num_epochs, num_classes, seed: see `Miner`. In epochs that are not mined
            the loader's batches come as they are.

    Raises:
        TypeError: batches that are not tuples of tensors (inputs, targets, …).
        ValueError: an argument out of range; a loss that is reduced.
        FloatingPointError: a pass in which every loss was NaN or infinite.

    Example:
        >>> model = nn.Linear(1, 2)
        >>> loader = [(torch.randn(8, 1), torch.tensor([0, 1] * 4)) for _ in range(4)]
        >>> loss = nn.CrossEntropyLoss(reduction="none")
        >>> miner = SelectiveBackprop(keep=0.5)
        >>> [len(labels) for inputs, labels in miner(loader, model, loss)]
        [8, 8]
    """

    def __init__(
        self,
        keep: float = 0.5,
        *,
        per_class: bool = True,
        trim: float = 0.0,
        batch_size: int | None = None,
        drop_last: bool = False,
        resolution: float = 1.0,
        autocast: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(**settings)
        self.keep = check_share("keep", keep)
        self.resolution = check_share("resolution", resolution)
        self.trim = check_share("trim", trim, zero=True)
        if self.keep < 1 and self.keep + self.trim > 1 + 1e-9:
            raise ValueError(f"Expected keep + trim to be at most 1, but got {keep} + {trim}.")
        if batch_size is not None:
            require_int("batch_size", batch_size, 1)
        self.per_class, self.batch_size, self.drop_last = per_class, batch_size, drop_last
        self.autocast, self.device = autocast, device

    def __call__(
        self, loader: Iterable[Any], model: Callable[..., Any], loss: Callable[..., Tensor]
    ) -> Iterator[tuple[Tensor, ...]]:
        """Batches `(inputs, targets, …)` on the model's device; see `LoaderMiner`.

        Of `(B, C)` losses the mean over labels is taken.
        """
        device = self.device
        if device is None and isinstance(model, nn.Module):
            device = next((p.device for p in model.parameters()), None)
        size, waiting, count, passed, used = self.batch_size, [], 0, 0, 0
        for batch in loader:
            parts = _to_device(batch, device)
            if not self.active:
                yield parts
                continue
            size = size or len(parts[0])
            chosen = self.select(self.score(parts, model, loss), parts[1])
            passed, used = passed + len(parts[0]), used + len(chosen)
            waiting.append(tuple(part[chosen] for part in parts))
            count += len(chosen)
            while count >= size:
                pool = [torch.cat(column) for column in zip(*waiting, strict=True)]
                yield tuple(column[:size] for column in pool)
                waiting, count = [tuple(column[size:] for column in pool)], count - size
        if passed and not used:
            raise FloatingPointError(
                f"Expected finite losses, but all {passed} of this pass were NaN or infinite, "
                "or too few to choose from: has the training diverged?"
                if self.tally.num_nonfinite
                else f"Expected keep={self.keep} of {passed} examples to be at least one."
            )
        if count and not self.drop_last:
            yield tuple(torch.cat(column) for column in zip(*waiting, strict=True))

    def score(self, parts: tuple[Tensor, ...], model: Any, loss: Any) -> Tensor:
        """`(B,)` losses of a candidate batch, without gradients and without traces in the model."""
        inputs, targets = parts[0], parts[1]
        if self.resolution < 1:
            height, width = (max(1, round(s * self.resolution)) for s in inputs.shape[-2:])
            inputs = F.adaptive_avg_pool2d(inputs, (height, width))
        cast = torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None)
        with scoring(model):
            with cast:
                logits = model(inputs)
            losses = loss(logits.float(), targets)
        losses = losses.mean(1) if losses.ndim == 2 else losses
        if losses.shape != targets.shape[:1]:
            raise ValueError(
                f"Expected loss to give one value for each of {len(targets)} examples, but got "
                f'shape {tuple(losses.shape)}. Use reduction="none", or Loss.unreduced.'
            )
        return losses

    def select(self, losses: Tensor, targets: Tensor | None = None) -> Tensor:
        """Places of the chosen examples of a candidate batch, ascending."""
        groups = check_groups(losses, targets) if self.per_class else None
        offset = self._next_offset()
        mask = hardest_examples(losses, self.keep, groups=groups, trim=self.trim, offset=offset)
        ids = targets if targets is not None and targets.ndim == 1 else None
        self.tally.add(losses, mask, ids)
        return mask.nonzero().squeeze(1)

    def cost(self) -> float:
        """A forward pass of all, smaller by `resolution`, and three for what was kept."""
        kept = self.tally.summary()["share_kept"]
        if kept is None:  # nothing was mined
            return 1.0
        return float(self.resolution**2 / 3 + kept)


def _to_device(batch: Any, device: Any) -> tuple[Tensor, ...]:
    several = isinstance(batch, tuple | list)
    fits = several and len(batch) >= 2
    if not fits or not all(isinstance(part, Tensor) and part.ndim for part in batch):
        got = [type(part).__name__ for part in batch] if several else type(batch).__name__
        raise TypeError(
            f"Expected loader to give tuples of tensors (inputs, targets, …), but got {got}. "
            "Wrap it in a generator that does."
        )
    if any(len(part) != len(batch[0]) for part in batch):
        raise ValueError(
            "Expected all parts of a batch to have one row an example, but got lengths "
            f"{[len(part) for part in batch]}."
        )
    return tuple(part if device is None else part.to(device, non_blocking=True) for part in batch)
