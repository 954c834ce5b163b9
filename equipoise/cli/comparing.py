"""`equipoise compare`: methods side by side, each trained as `equipoise train` does."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from equipoise.cli import options as o
from equipoise.cli.failing import one_line
from equipoise.cli.pictures import draw
from equipoise.cli.run_options import chosen, parted, with_run_options
from equipoise.cli.tables import show_comparison, summary
from equipoise.cli.watching import Watch
from equipoise.training import METHODS, Settings, read_data, settings_of_method, train_run
from equipoise.training.saving import read_json, write_json

__all__ = ["compare_command"]


def _known(methods: list[str]) -> list[str]:
    for method in methods:
        try:
            settings_of_method(method, Settings())
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return list(dict.fromkeys(methods))


@with_run_options
def compare_command(
    context: typer.Context,
    data: o.DataPath,
    out: o.Out,
    method: Annotated[
        list[str] | None,
        o.option(
            "Once for each method: balancer (the defaults), or the name of a policy, a loss or a "
            "miner, or such joined by +, the rest as in plain. Policies: "
            f"{', '.join(METHODS['policies'])}. Losses: {', '.join(METHODS['losses'])}. Miners: "
            f"{', '.join(METHODS['miners'])}. By default plain and balancer.",
            o.TRAIN,
            "NAME",
            show_default=False,
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="More methods.", show_default=False),
    ] = None,
    seeds: Annotated[int, o.option("Runs of each method.", o.TRAIN, min=1)] = 3,
    **options: Any,
) -> None:
    """Train on DATA with several methods and seeds, and show them side by side.

    Every run has the same training, hold-out and test examples, and is a folder RUN/METHOD-SEED as
    `equipoise train` writes it. RUN gets compare.json and compare.png besides. After Ctrl-C, the
    same command with --resume goes on.

    For example: equipoise compare digits.npz --method plain equal-recall --seeds 3 --out runs/both
    """
    methods = _known([*(method or []), *(more or [])] or ["plain", "balancer"])
    given, resume, as_json = chosen(context), options["resume"], options["as_json"]
    again = " ".join(["equipoise compare", shlex.quote(str(data)), "--out", shlex.quote(str(out))])
    path = out / "compare.json"
    with one_line("compare", f"; go on with the same command and --resume: {again} … --resume"):
        if options["threads"] is not None:
            torch.set_num_threads(options["threads"])
        if path.exists() and not resume:
            raise FileExistsError(
                f"Expected RUN to be a new folder, but {out} holds a comparison: go on with it by "
                "--resume, or choose another."
            )
        reading, base = parted(given)
        results: list[dict[str, Any]] = []
        with Watch(quiet=as_json) as watch:
            found = read_data(data, **reading, progress=watch.reading)
            watch.say(str(found))
            for name, seed, folder in _runs(methods, seeds, out):
                title = f"{name}, seed {seed}"
                record = train_run(
                    found,
                    folder,
                    settings_of_method(name, replace(base, seed=seed)),
                    reading=reading,
                    resume=resume,
                    baseline=_plain_recalls(results, seed),
                    progress=partial(watch.training, name=title),
                )
                kept = {key: record[key] for key in ("results", "seconds", "chosen")}
                results.append({"method": name, "seed": seed, "run": folder.name, **kept})
        whole = {
            "format": 1,
            "state": "finished",
            "data": str(data),
            **{key: record[key] for key in ("multilabel", "names", "examples", "versions")},
            "summary": summary(results, record["multilabel"]),
            "runs": results,
        }
        write_json(path, whole)
        drawn = draw(whole, out / "compare.png")
        if as_json:
            typer.echo(json.dumps(read_json(path), indent=2))
            return
        show_comparison(whole)
        typer.echo(f"Figures: {path}" + (f"   Picture: {drawn}" if drawn else ""))


def _plain_recalls(results: list[dict[str, Any]], seed: int) -> list[float] | None:
    """Of the plain run of this seed, if there was one: of labels reports count other recalls."""
    for result in results:
        if result["method"] == "plain" and result["seed"] == seed:
            recalls = result["results"]["as_trained"].get("recalls")
            return recalls and [math.nan if r is None else r for r in recalls]
    return None


def _runs(methods: list[str], seeds: int, out: Path) -> Iterator[tuple[str, int, Path]]:
    for seed in range(seeds):
        for name in methods:
            yield name, seed, out / f"{re.sub(r'[^a-z0-9-]', '-', name)}-{seed}"
