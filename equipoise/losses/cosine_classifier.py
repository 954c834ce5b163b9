"""A last layer whose logits are scaled cosines."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equipoise.losses.base import check_number


class CosineClassifier(nn.Module):
    """Logits `s · cos(f, w_c)`: a last layer in which neither lengths nor a bias favour a class.

    Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting" (2018); with s = 1
    it is what LDAM asks for, which has a scale of its own. Features and class vectors are
    normalised and multiplied in float32, also under autocast: cosines close to 1 differ by less
    than half precision can tell.

    Args:
        in_features: length of a feature vector.
        num_classes: C.
        scale: s > 0. With too small a value the softmax cannot become certain: its largest
            probability is `1/(1 + (C−1) exp(−2s))` at most.

    Shapes:
        features `(…, in_features)` -> logits `(…, C)`, of at least float32.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> layer = CosineClassifier(8, 3)
        >>> bool((layer(torch.randn(5, 8)).abs() <= 16.01).all())
        True
    """

    def __init__(self, in_features: int, num_classes: int, scale: float = 16.0) -> None:
        super().__init__()
        self.in_features = int(check_number("in_features", in_features, 1))
        self.num_classes = int(check_number("num_classes", num_classes, 1))
        self.scale = check_number("scale", scale, 1e-6)
        self.weight = nn.Parameter(torch.empty(self.num_classes, self.in_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Linear's

    def forward(self, features: Tensor) -> Tensor:
        """Scaled cosines of features and class vectors."""
        with torch.autocast(features.device.type, enabled=False):
            dtype = torch.promote_types(features.dtype, torch.float32)
            directions = F.normalize(self.weight.to(dtype), dim=-1)
            return F.linear(F.normalize(features.to(dtype), dim=-1), self.scale * directions)

    def extra_repr(self) -> str:
        """Sizes and scale, for `repr`."""
        return f"{self.in_features}, {self.num_classes}, scale={self.scale}"
