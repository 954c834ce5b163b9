"""A Balancer's state: what it must agree with, what it holds, how it is taken over."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch

__all__ = ["made_of", "restore", "state_of"]

VERSION = 3  # of the layout of `state_of`, and of the order that a seed stands for


def made_of(balancer: Any) -> dict[str, Any]:
    """What a state must agree with to be loaded: kinds of parts, and a checksum of the targets."""
    targets = balancer.targets
    arrays = (
        [targets.labels]
        if targets.matrix is None
        else [targets.matrix.indptr, targets.matrix.indices]
    )
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return {
        "num_classes": targets.num_classes,
        "num_examples": targets.num_examples,
        "checksum of targets": checksum,
        "policy": type(balancer.policy).__name__,
        "sampler": type(balancer.sampler).__name__,
        "sampler_share": balancer.sampler_share,
        "num_samples": getattr(balancer.sampler, "inner", balancer.sampler).num_samples,
        "seed": balancer.sampler.seed,
        "loss": type(balancer._loss).__name__,
        "mining": type(balancer.mining).__name__,
    }


def state_of(balancer: Any) -> dict[str, Any]:
    """See `Balancer.state_dict`."""
    return {
        "version": VERSION,
        "made_of": made_of(balancer),
        "epoch": balancer.epoch,
        "position": balancer.progress.position,
        "counts": balancer.progress.counts,
        "log_weight": torch.from_numpy(balancer.log_weight.copy()),
        "policy": balancer.policy.state_dict(),
        "sampler": balancer.sampler.state_dict(),
        "loss": balancer._loss.state_dict(),
        "learnt": balancer._learnt,
        "shift": balancer._shift.clone(),
        "mining": None if balancer.mining is None else balancer.mining.state_dict(),
        "rates": balancer.rates.state_dict(),
        "decision": balancer.decision.state_dict(),
        "history": [dict(row) for row in balancer.history],
    }


def restore(balancer: Any, state: dict[str, Any]) -> None:
    """See `Balancer.load_state_dict`."""
    if not isinstance(state, dict) or "made_of" not in state:
        raise ValueError("Expected state of a Balancer, as state_dict() gives it, but got another.")
    version = state.get("version", 1)
    if version != VERSION:
        raise ValueError(
            f"Expected state of version {VERSION}, but got version {version}: it was saved by "
            f"{'a later' if version > VERSION else 'an earlier'} equipoise."
        )
    for name, mine in made_of(balancer).items():
        theirs = state["made_of"].get(name)
        if theirs != mine:
            raise ValueError(
                f"Expected state of a Balancer with {name} {mine!r}, but got {theirs!r}."
            )
    missing = [name for name in state_of(balancer) if name not in state]
    if missing:
        raise ValueError(f"Expected state of a Balancer, but got one without {missing}.")
    balancer.sampler.load_state_dict(state["sampler"])
    balancer._loss.load_state_dict(state["loss"])
    balancer.policy.load_state_dict(state["policy"])
    balancer.rates.load_state_dict(state["rates"])
    if balancer.mining is not None:
        balancer.mining.load_state_dict(state["mining"])
    balancer.decision.load_state_dict(state["decision"])
    balancer._learnt, balancer._shift = state["learnt"], state["shift"].cpu().clone()
    balancer.epoch = state["epoch"]
    balancer.log_weight = state["log_weight"].cpu().double().numpy().copy()
    balancer.history = [dict(row) for row in state["history"]]
    balancer.progress.go_to(state["epoch"], state["position"])
    balancer.progress.counts = state["counts"]
