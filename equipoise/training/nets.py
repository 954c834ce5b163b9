"""Networks: a small convolutional one, a perceptron, or one of torchvision's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Scaled", "augment", "make_net", "scaling_of", "start_at_prevalence"]


class Scaled(nn.Module):
    """(x − shift) · scale, NaN as 0; then within ±5 (features), or rows of length 1 (sparse ones).

    Args:
        shift, scale: one number an input channel or feature.
        kind: "image", "dense" or "sparse".
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor, kind: str) -> None:
        super().__init__()
        self.kind = kind
        shape = (-1, 1, 1) if kind == "image" else (-1,)
        self.register_buffer("shift", shift.float().reshape(shape))
        self.register_buffer("scale", scale.float().reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nan_to_num((x - self.shift) * self.scale)
        if self.kind == "dense":
            return x.clamp(-5, 5)
        return nn.functional.normalize(x, dim=1) if self.kind == "sparse" else x


def scaling_of(sample: Any, images: bool) -> tuple[Tensor, Tensor, str]:
    """Shift, scale and kind for `Scaled`, from a sample of the training inputs.

    Pixels of uint8 go to [−1, 1], other images and features to mean 0 and variance 1. Sparse
    features without negative values are weighted by the inverse document frequency,
    log((1 + n) / (1 + n_f)) + 1.
    """
    if images and sample.dtype == np.uint8:
        shift = torch.full((sample.shape[-1],), 127.5)
        return shift, 1 / shift, "image"
    if hasattr(sample, "tocsr"):
        if sample.nnz == 0 or sample.data.min() >= 0:
            users = np.bincount(sample.tocsr().indices, minlength=sample.shape[1])
            idf = np.log((1 + sample.shape[0]) / (1 + users)) + 1
            return torch.zeros(len(idf)), torch.from_numpy(idf), "sparse"
        sample = sample.toarray()
    values = np.asarray(sample, np.float64)
    axes = (0, 1, 2) if images else (0,)
    known = np.isfinite(values)
    count = np.maximum(known.sum(axes), 1)
    mean = np.where(known, values, 0).sum(axes) / count
    sd = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(axes) / count)
    sd[sd < 1e-8] = 1
    return torch.from_numpy(mean), torch.from_numpy(1 / sd), "image" if images else "dense"


def make_net(
    name: str, shape: list[int], outputs: int, width: int, kind: str, multilabel: bool
) -> nn.Sequential:
    """A network from inputs as the data has them to `outputs` logits.

    Args:
        name: "cnn": four 3 by 3 convolutions with batch norm (and one more for each doubling of
            the images above 32 pixels), mean over the image (the maximum for labels), one linear
            layer. "mlp": one hidden layer. Or a model of torchvision, from scratch.
        shape: of an example: (H, W, C) or (F,).
        outputs: classes or labels.
        width: channels of the first convolution, or of the hidden layer.
        kind: of the inputs, see `Scaled`.
        multilabel: whether an image carries several labels.
    """
    channels = shape[-1]
    scaled = Scaled(torch.zeros(channels), torch.ones(channels), kind)
    if name == "mlp":
        net: nn.Module = nn.Sequential(
            nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(width, outputs),
        )  # fmt: skip
    elif name == "cnn":
        net = _convolutions(shape, outputs, width, multilabel)
    else:
        net = _torchvision(name, channels, outputs)
    whole = nn.Sequential(scaled, net)
    return whole.to(memory_format=torch.channels_last) if kind == "image" else whole


def _convolutions(shape: list[int], outputs: int, width: int, multilabel: bool) -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    halvings = max(0, round(math.log2(min(shape[:2]) / 32)))
    first = block(shape[-1], width, 2 if halvings else 1)
    for _ in range(halvings - 1):
        first += block(width, width, 2)
    return nn.Sequential(
        *first,
        *block(width, 2 * width, 2),
        *block(2 * width, 4 * width, 2),
        *block(4 * width, 4 * width, 1),
        nn.AdaptiveMaxPool2d(1) if multilabel else nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, outputs),
    )


def _torchvision(name: str, channels: int, outputs: int) -> nn.Module:
    try:
        from torchvision.models import get_model, list_models
    except ImportError as error:
        raise ImportError(
            f"The network {name!r} needs torchvision: pip install 'equipoise[vision]'"
        ) from error
    import torchvision.models

    if name not in list_models(module=torchvision.models):
        raise ValueError(
            "Expected net to be cnn, mlp or a classification model of torchvision such as "
            f"resnet18, but got {name!r}."
        )
    net = get_model(name, weights=None, num_classes=outputs)
    return net if channels == 3 else nn.Sequential(nn.Conv2d(channels, 3, 1), net)


@torch.no_grad()
def start_at_prevalence(net: nn.Module, balancer: Any) -> None:
    """The last layer's bias: every label begins at its own frequency, as its loss will have it."""
    targets = balancer.targets
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1:]
    if not last or last[0].bias is None or last[0].out_features != targets.num_classes:
        return
    counts = torch.from_numpy(targets.counts)
    wanted = ((counts + 1) / (targets.num_examples - counts + 1)).log()
    low, high = torch.full_like(wanted, -20), torch.full_like(wanted, 20)
    for _ in range(40):  # the logit that `correct` turns into the label's log-odds
        middle = (low + high) / 2
        above = balancer.correct(middle[None])[0] > wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    last[0].bias.copy_((low + high) / 2)


def augment(images: Tensor, generator: torch.Generator, flip: bool) -> Tensor:
    """Images `(B, H, W, C)`, each shifted by up to an eighth (its border repeated); half mirrored.

    Without `flip` none is mirrored.
    """
    height, width = images.shape[1:3]
    rows, columns = (
        (torch.arange(size) + torch.randint(-(size // 8), size // 8 + 1, (len(images), 1),
                                            generator=generator)).clamp(0, size - 1)
        for size in (height, width)
    )  # fmt: skip
    if flip:
        mirrored = torch.rand(len(images), 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    batch = torch.arange(len(images))[:, None, None]
    return images[batch, rows[:, :, None], columns[:, None]]
