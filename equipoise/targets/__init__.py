"""Targets: the labels of a data set, validated once.

This is the only place where labels are checked. Everything downstream (samplers, policies,
losses) takes a `Targets` and trusts it.
"""

from __future__ import annotations

from equipoise.targets.targets import Targets

__all__ = ["Targets"]
