"""The options that `train` and `compare` share, declared once, and what becomes of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import typer

from equipoise.cli import options as o
from equipoise.training import Settings

__all__ = ["chosen", "parted", "with_run_options"]

READING = ("inputs", "field", "labels", "size", "holdout", "test", "limit")


def _run_options(
    *,
    resume: o.Resume = False,
    sampler_share: o.SamplerShare = None,
    objective: o.Objective = None,
    epochs: o.Epochs = 15,
    batch_size: o.BatchSize = None,
    lr: o.Lr = 3e-3,
    net: o.Net = None,
    width: o.Width = None,
    bf16: o.Bf16 = None,
    flip: o.Flip = None,
    inputs: o.Inputs = None,
    field: o.Field = None,
    labels: o.Labels = None,
    size: o.Size = 64,
    holdout: o.Holdout = None,
    test: o.TestShare = None,
    limit: o.Limit = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    as_json: o.AsJson = False,
) -> None: ...


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options in place of its `**options`, as typer reads them."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    shared = inspect.signature(_run_options, eval_str=True).parameters.values()
    named = [parameter for parameter in own if parameter.kind != parameter.VAR_KEYWORD]
    command.__signature__ = inspect.Signature([*named, *shared])  # type: ignore[attr-defined]
    command.__annotations__ |= get_type_hints(_run_options, include_extras=True)
    return command


def chosen(context: typer.Context) -> dict[str, Any]:
    """What the command line says about data and training, by the names of `READING`, `Settings`."""
    names = {*Settings().to_dict(), *READING}
    given = {name: value for name, value in context.params.items() if name in names}
    o.check_reading(*(context.params[name] for name in ("data", "inputs", "field", "labels")))
    return given


def parted(given: dict[str, Any]) -> tuple[dict[str, Any], Settings]:
    """How the data are read, and the settings of the training."""
    reading = {name: given[name] for name in READING}
    return reading, Settings(**{k: v for k, v in given.items() if k not in READING})
