"""`equipoise train`: a network trained with a Balancer, from a file to a report."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from equipoise.cli import options as o
from equipoise.cli.failing import one_line
from equipoise.cli.run_options import chosen, parted, with_run_options
from equipoise.cli.tables import show_run
from equipoise.cli.watching import Watch
from equipoise.training import METHODS, read_data, train_run
from equipoise.training.saving import read_json

__all__ = ["train_command"]


@with_run_options
def train_command(
    context: typer.Context,
    data: o.DataPath,
    out: o.Out,
    policy: Annotated[
        str | None,
        o.option(
            f"How class weights follow recalls: {', '.join(METHODS['policies'])}. By default "
            "equal-recall; for labels plain.",
            o.TRAIN,
            "NAME",
            callback=o.one_of(METHODS["policies"]),
        ),
    ] = None,
    loss: Annotated[
        str | None,
        o.option(
            f"{', '.join(METHODS['losses'])}. By default logit-adjusted for equal-recall, "
            "weighted-cross-entropy for other policies, weighted-bce for labels.",
            o.TRAIN,
            "NAME",
            callback=o.one_of(METHODS["losses"]),
        ),
    ] = None,
    mining: Annotated[
        str | None,
        o.option(
            f"Learn from the hard part of what is drawn: {', '.join(METHODS['miners'])}.",
            o.TRAIN,
            "NAME",
            callback=o.one_of(METHODS["miners"]),
        ),
    ] = None,
    seed: Annotated[int, o.option("Of weights, order and augmentation.", o.TRAIN, min=0)] = 0,
    **options: Any,
) -> None:
    """Train a network on DATA so that its classes are learnt equally well, and test it.

    Part of the training examples is held out: its recalls move the class weights after every epoch,
    and the decision (an offset a class, a threshold a label) is fitted on it in the end. The test
    examples are used once, at the end.

    DATA is an **.npz** with inputs x, images or features and labels y or labels (of all examples,
    with `split` 0 for training and 1 for test if you have it; or x_train, y_train, x_test, y_test),
    an **.arff** with several labels, a **.beton** of FFCV, or a **folder** with a folder of images
    a class, or with images and a labels.csv.

    RUN gets run.json (settings, history, results), report.html, report.json, model.pt and
    balancer.pt. After Ctrl-C, the same command with --resume goes on.

    For example: equipoise train birds/ --out runs/birds --epochs 20
    """
    given, resume, as_json = chosen(context), options["resume"], options["as_json"]
    again = f"equipoise train {shlex.quote(str(data))} --out {shlex.quote(str(out))} --resume"
    with one_line("train", f"; go on with: {again}"):
        if resume and (out / "run.json").exists():
            record = read_json(out / "run.json")
            stored = record["settings"] | record["reading"]
            stored["device"] = given["device"]
            given = o.settled(context, given, stored, out)
            if record["state"] == "finished":
                typer.echo(f"{out} is finished already.", err=True)
                return _show(record, out, as_json)
        if options["threads"] is not None:
            torch.set_num_threads(options["threads"])
        with Watch(quiet=as_json) as watch:
            reading, settings = parted(given)
            found = read_data(data, **reading, progress=watch.reading)
            watch.say(str(found))
            record = train_run(
                found, out, settings, reading=reading, resume=resume, progress=watch.training
            )
        _show(record, out, as_json)


def _show(record: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    show_run(record)
    page = out / "report.html"
    typer.echo(f"Report: {page}" if page.exists() else f"Figures: {out / 'run.json'}")
