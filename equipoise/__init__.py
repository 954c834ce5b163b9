"""equipoise: samplers, mining, losses and decisions for classes that are not learnt equally well."""

from __future__ import annotations

from equipoise.balancer import Balancer
from equipoise.rates import ClassRates
from equipoise.targets import Targets, holdout_split

__version__ = "0.1.0.dev0"
__all__ = ["Balancer", "ClassRates", "Targets", "holdout_split"]
