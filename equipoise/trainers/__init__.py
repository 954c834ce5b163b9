"""Trainers: one adapter a framework, imported when asked for.

`equipoise.trainers.lightning` and `equipoise.trainers.transformers` need those packages;
`GlobalOrder`, for loaders that a framework splits over the processes itself, needs torch alone.
"""

from __future__ import annotations

from equipoise.trainers.global_order import GlobalOrder

__all__ = ["GlobalOrder"]
