"""equipoise: samplers, mining, losses and decisions for classes that are not learnt equally well."""

from __future__ import annotations

from equipoise.targets import Targets, holdout_split

__version__ = "0.1.0.dev0"
__all__ = ["Targets", "holdout_split"]
