"""Balancer: one vector of class log-weights behind sampler, loss and decision."""

from __future__ import annotations

from equipoise.balancer.balancer import Balancer

__all__ = ["Balancer"]
