"""Elements of dense logits: pixels or tokens as rows, and a random sample of them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ElementSample", "elements_of", "folds_of"]


def elements_of(
    logits: Tensor, targets: Tensor, ignore_index: int = -100
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows `(n, C)` of the elements that are counted, their class ids, and their image's number.

    Example:
        >>> targets = torch.tensor([[0, -100], [1, 1]])
        >>> rows, ids, images = elements_of(torch.zeros(2, 3, 2), targets)
        >>> rows.shape, ids.tolist(), images.tolist()
        (torch.Size([3, 3]), [0, 1, 1], [0, 1, 1])
    """
    if logits.ndim < 2 or targets.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            "Expected logits (N, C) or (N, C, d1, …) and targets (N,) or (N, d1, …) class ids, "
            f"but got {tuple(logits.shape)} and {targets.dtype} {tuple(targets.shape)}."
        )
    counted = targets != ignore_index
    images = counted.nonzero()[:, 0]
    return logits.detach().movedim(1, -1)[counted.to(logits.device)], targets[counted], images


def folds_of(y: Tensor, images: Tensor | None, folds: int, seed: int = 0) -> Tensor:
    """`(N,)` part of each example: runs of neighbouring images, which frames of a film are alike.

    Without images each class is dealt out evenly, in a random order.

    Example:
        >>> folds_of(torch.zeros(5), torch.tensor([0, 0, 1, 2, 3]), folds=2).tolist()
        [0, 0, 0, 1, 1]
    """
    if not isinstance(folds, int) or folds < 2:
        raise ValueError(f"Expected folds to be an int of at least 2, but got {folds!r}.")
    if images is not None:
        _, place = images.cpu().unique(return_inverse=True)
        return place * folds // (int(place.max()) + 1)
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[y[shuffled].argsort(stable=True)]
    fold = torch.empty_like(y)
    fold[by_class] = torch.arange(len(y)) % folds
    return fold


class ElementSample:
    """A random subset of the elements of a hold-out, for fits that need not hold all its logits.

    The logits of 500 images of 1024 × 2048 pixels and 19 classes are 80 GB; those of 100,000 of
    their pixels are 8 MB. Every element that is not ignored has the same chance: reservoir
    sampling (Vitter 1985, "Random sampling with a reservoir"), with a random key for each, of which
    the smallest are kept.

    Args:
        size: elements kept at most.
        ignore_index: the class id that is left out.
        seed: of the choice.

    Attributes:
        logits: `(n, C)` on the CPU, for `Balancer.fit_decision`.
        targets: `(n,)` class ids.
        images: `(n,)` which image an element is of, numbered as they came.

    Example:
        >>> sample = ElementSample(size=100)
        >>> for batch in range(3):
        ...     sample.add(torch.randn(4, 2, 8, 8), torch.randint(2, (4, 8, 8)))
        >>> sample.logits.shape, int(sample.images.max()) < 12
        (torch.Size([100, 2]), True)
    """

    def __init__(self, size: int = 100_000, *, ignore_index: int = -100, seed: int = 0) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"Expected size to be a positive int, but got {size!r}.")
        self.size, self.ignore_index = size, ignore_index
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: tuple[Tensor, ...] = ()  # keys, logits, targets, images
        self._came = 0

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Take a batch: logits `(B, C, d1, …)` and class ids `(B, d1, …)`."""
        keys = torch.rand(targets.shape, generator=self._generator)
        counted = targets.cpu() != self.ignore_index
        if len(self._kept) and len(self._kept[0]) == self.size:
            counted &= keys < self._kept[0].max()  # the others cannot be among the smallest
        images = counted.nonzero()[:, 0] + self._came
        self._came += len(targets)
        rows = logits.detach().movedim(1, -1)[counted.to(logits.device)].cpu()
        new: tuple[Tensor, ...] = keys[counted], rows, targets.cpu()[counted], images
        if self._kept:
            new = tuple(torch.cat(both) for both in zip(self._kept, new, strict=True))
        chosen = new[0].topk(min(self.size, len(new[0])), largest=False).indices
        self._kept = tuple(each[chosen] for each in new)
        _, self.logits, self.targets, self.images = self._kept
