"""ClassRates: streaming confusion, recall, precision and IoU of classes, on the logits' device."""

from __future__ import annotations

import torch
from torch import Tensor

from equipoise.rates.base import Rates
from equipoise.rates.smoothing import smoothed_recalls

__all__ = ["ClassRates"]

MOST_CONFUSED = 256  # classes up to which a confusion matrix is kept
_AT_A_TIME = 1 << 22  # cells of the images' own confusion matrices


class ClassRates(Rates):
    """Counts of hits, elements and predictions of each class, fed batch by batch.

    Elements are the examples of a batch or, for dense logits, the pixels or tokens of its images
    or sentences. `update` stays on the logits' device and never waits for it. Elements whose
    logits hold a NaN, or whose target is no class id, are left out of every rate and counted in
    `num_nan` and `num_invalid`; those with `ignore_index` are left out silently.

    The pixels of an image are much alike, so that a recall is known no better than the number of
    images allows. `recall_errors` are standard errors from the differences between images, and
    `recalls(prior)` goes by the `effective_support` that follows from them.

    Args:
        num_classes: C.
        ignore_index: the class id that stands for "not counted".

    Example:
        >>> rates = ClassRates(2)
        >>> logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
        >>> rates.update(logits, torch.tensor([0, 1, 1]))
        >>> rates.recalls().tolist(), rates.ious().tolist()
        ([1.0, 0.5], [0.5, 0.5])
        >>> rates.update(torch.randn(4, 2, 6, 8), torch.full((4, 6, 8), -100))
        >>> rates.support.tolist(), rates.confusion.tolist()
        ([1, 2], [[1, 0], [1, 1]])
    """

    counted = ("_counts", "_confusion", "_ignored")

    def __init__(self, num_classes: int, ignore_index: int = -100) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, int(ignore_index)
        # Hits h, support n, predictions, images; and Σ h², Σ h·n, Σ n² over images
        self._counts = torch.zeros(7, num_classes, dtype=torch.int64)
        cells = num_classes**2 if num_classes <= MOST_CONFUSED else 0
        self._confusion = torch.zeros(cells, dtype=torch.int64)

    @torch.no_grad()
    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch.

        Args:
            logits: `(B, C)` or `(B, C, d1, …)` of any floating dtype.
            targets: class ids, `(B,)` or `(B, d1, …)`.
        """
        if logits.ndim < 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"Expected logits to have shape (B, {self.num_classes}) or "
                f"(B, {self.num_classes}, d1, …), but got {tuple(logits.shape)}."
            )
        if targets.shape != logits.shape[:1] + logits.shape[2:] or targets.dtype.is_floating_point:
            raise ValueError(
                f"Expected targets to be class ids of shape "
                f"{tuple(logits.shape[:1] + logits.shape[2:])}, "
                f"but got {targets.dtype} of shape {tuple(targets.shape)}."
            )
        targets = targets.to(logits.device).long()
        highest, predicted = logits.max(1)  # the maximum of a NaN and others is NaN
        self.count(highest.isnan(), predicted, targets)

    @torch.no_grad()
    def count(self, nan: Tensor, predicted: Tensor, targets: Tensor) -> None:
        """Count ids that are decided already, all of one shape and on one device.

        Args:
            nan: which had NaN logits, and are left out.
            predicted: ids; of shape `(B,)` also −1, none of the classes.
            targets: ids, of which those out of range are left out.
        """
        classes = self.num_classes
        self._move(targets.device)
        valid = (targets >= 0) & (targets < classes)
        wanted = targets != self.ignore_index
        used = valid & wanted & ~nan
        self._ignored += torch.stack([(nan & wanted).sum(), (~valid & wanted & ~nan).sum()])
        targets = targets.where(used, 0)
        if targets.ndim == 1:  # every element is an image of its own
            hits = torch.zeros(classes, dtype=torch.int64, device=targets.device)
            support, guesses = torch.zeros_like(hits), torch.zeros_like(hits)
            hits.scatter_add_(0, targets, (used & (predicted == targets)).long())
            support.scatter_add_(0, targets, used.long())
            used, predicted = used & (predicted >= 0), predicted.clamp_min(0)
            guesses.scatter_add_(0, predicted, used.long())
            self._counts += torch.stack([hits, support, guesses, support, hits, hits, support])
            if len(self._confusion):
                self._confusion.scatter_add_(0, targets * classes + predicted, used.long())
            return
        targets, predicted, used = (each.flatten(1) for each in (targets, predicted, used))
        wide = classes**2 if len(self._confusion) else 3 * classes
        rows = max(1, _AT_A_TIME // wide)
        for first in range(0, len(targets), rows):
            part = slice(first, first + rows)
            self._count_images(targets[part], predicted[part], used[part].long())

    def _count_images(self, targets: Tensor, predicted: Tensor, used: Tensor) -> None:
        """Of class ids `(B, pixels)`: each image's own counts, then their sums."""
        images, classes = len(targets), self.num_classes
        if len(self._confusion):
            table = used.new_zeros(images, classes**2)
            table.scatter_add_(1, targets * classes + predicted, used)
            self._confusion += table.sum(0)
            table = table.view(images, classes, classes)
            hits, support = table.diagonal(dim1=1, dim2=2), table.sum(2)
            guesses = table.sum((0, 1))
        else:
            hits, support, each = (used.new_zeros(images, classes) for _ in range(3))
            hits.scatter_add_(1, targets, used * (predicted == targets))
            support.scatter_add_(1, targets, used)
            guesses = each.scatter_add_(1, predicted, used).sum(0)
        sums = hits, support, support > 0, hits * hits, hits * support, support * support
        hits, support, *others = (each.sum(0) for each in sums)
        self._counts += torch.stack([hits, support, guesses, *others])

    def recalls(self, prior: float | None = 0.0) -> Tensor:
        """`(C,)` float64 recalls (true-positive rates) on the CPU.

        Raw, unless `prior` says otherwise: see `smoothed_recalls`; `None` estimates it. The
        support is then `effective_support`.
        """
        hits, support = self._counts[:2].cpu().double()
        effective = self.effective_support()
        return smoothed_recalls(hits * effective / support.clamp_min(1), effective, prior)

    def effective_support(self) -> Tensor:
        """`(C,)` float64: how many elements drawn one by one would tell as much of each recall.

        The number of images in which a class occurs, times how many elements of its own an image
        is worth: the ratio, of all classes together, of r(1 − r) / images to the recalls' squared
        errors. It equals `support` where an example is a single element.
        """
        hits, support, _, images = self._counts[:4].cpu().double()
        recall = hits / support.clamp_min(1)
        found = self.recall_errors().square().sum()
        alone = (recall * (1 - recall) / images.clamp_min(1)).sum()
        each = float(alone / found) if found > 0 else 1.0
        return torch.minimum(images * max(each, 1.0), support)

    def recall_errors(self) -> Tensor:
        """`(C,)` float64 standard errors of the recalls, images being what is drawn at random.

        √Σ_i (h_i − r n_i)² / Σ_i n_i over images i with n_i elements of the class, h_i of them
        hit, and r the recall: that of a ratio of sums (Cochran 1977, "Sampling Techniques", §6.3).
        """
        hits, support, _, _, of_hits, mixed, of_support = self._counts.cpu().double()
        recall = hits / support.clamp_min(1)
        square = of_hits - 2 * recall * mixed + recall.square() * of_support
        return square.clamp_min(0).sqrt() / support.clamp_min(1)

    def precisions(self) -> Tensor:
        """`(C,)` float64 hits over predictions on the CPU, 0 for a class never predicted."""
        hits, _, predicted = self._counts[:3].cpu().double()
        return hits / predicted.clamp_min(1)

    def ious(self) -> Tensor:
        """`(C,)` float64 hits over elements that are of the class or predicted to be, on the CPU.

        The intersection over the union, or Jaccard index; 0 for a class that is neither.
        """
        hits, support, predicted = self._counts[:3].cpu().double()
        return hits / (support + predicted - hits).clamp_min(1)

    def accuracy(self) -> float:
        """The share of all elements that are predicted right."""
        hits, support = self._counts[:2].sum(1).tolist()
        return hits / max(support, 1)

    @property
    def elements(self) -> bool:
        """Whether examples of several elements came, such as images of pixels."""
        return bool((self._counts[1] != self._counts[3]).any())

    @property
    def confusion(self) -> Tensor | None:
        """`(C, C)` int64 elements by true class (row) and predicted one; `None` above 256 classes.

        On the CPU.
        """
        if not len(self._confusion):
            return None
        return self._confusion.cpu().view(self.num_classes, self.num_classes)

    @property
    def support(self) -> Tensor:
        """`(C,)` int64 elements of each class seen since the last reset."""
        return self._counts[1].cpu()

    @property
    def images(self) -> Tensor:
        """`(C,)` int64 images (or sentences) in which each class was seen.

        It equals `support` where an example is a single element.
        """
        return self._counts[3].cpu()
