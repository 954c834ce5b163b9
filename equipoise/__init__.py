"""equipoise: samplers, mining, losses, decisions for classes that are not learnt equally well."""

from __future__ import annotations

# `equipoise.audit` is the function. Its module of the same name stays importable from:
# `from equipoise.audit import Audit`.
from equipoise.audit import Audit, audit
from equipoise.balancer import Balancer
from equipoise.rates import ClassRates
from equipoise.splits import holdout_split
from equipoise.targets import Targets

__version__ = "0.2.0"
__all__ = [
    "Audit",
    "Balancer",
    "ClassRates",
    "Targets",
    "audit",
    "holdout_split",
]
