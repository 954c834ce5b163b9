"""Hold-outs and folds in which every class has its share, and no group is on both sides."""

from __future__ import annotations

from equipoise.splits.splits import holdout_split, k_folds, three_way_split

__all__ = ["holdout_split", "k_folds", "three_way_split"]
