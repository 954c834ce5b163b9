"""Options that commands share, and what is taken from a run that is gone on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "AsJson",
    "BatchSize",
    "Bf16",
    "DataPath",
    "Device",
    "Epochs",
    "Field",
    "Flip",
    "Holdout",
    "Inputs",
    "Labels",
    "Limit",
    "Lr",
    "Net",
    "Objective",
    "Out",
    "Resume",
    "SamplerShare",
    "Size",
    "TestShare",
    "Threads",
    "Width",
    "check_reading",
    "one_of",
    "settled",
]

DATA, NET, TRAIN, RUN = "Data", "Network", "Training", "Run"


def one_of(names: Sequence[str]) -> Callable[[str | None], str | None]:
    """A callback: wrong usage unless the value is one of these names."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}.")
        return value

    return check


def option(help: str, panel: str, metavar: str | None = None, *names: str, **more: Any) -> Any:
    """An option in a panel of the help, under its parameter's name or these."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, **more)


DataPath = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="An .npz, .arff or .beton, or a folder of images.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else on stdout.")]
Out = Annotated[Path, option("Folder to write; it is made.", RUN, "RUN", show_default=False)]
Resume = Annotated[
    bool,
    option(
        "Go on with RUN at the end of its last whole epoch; its own options stand. Begins a run "
        "where there is none.",
        RUN,
        None,
        "--resume",
    ),
]

Inputs = Annotated[
    str | None,
    option("The inputs' name: of an array of the .npz, or a field of the .beton.", DATA, "NAME"),
]
Field = Annotated[str | None, option("The labels' name, likewise.", DATA, "NAME")]
Labels = Annotated[
    str | None,
    option("Which attributes of an .arff are labels: see equipoise audit.", DATA, "WHICH"),
]
Size = Annotated[
    int, option("Pixels to which photographs are scaled and cut.", DATA, "PIXELS", min=8)
]
Holdout = Annotated[
    float | None,
    option("Share of the training examples held out, for recalls and the decision. By default .1; "
           "of fewer than 10,000, .2.", DATA, "SHARE", min=0.001, max=0.9),
]  # fmt: skip
TestShare = Annotated[
    float | None,
    option("Share to test on where DATA names no test examples; .2 by default.", DATA, "SHARE",
           min=0.001, max=0.9),
]  # fmt: skip
Limit = Annotated[
    int | None, option("Take this many examples at most, to try things out.", DATA, "N", min=4)
]

SamplerShare = Annotated[
    float | None,
    option("Share of the class weights that the sampler carries, the loss the rest; by default 1, "
           "for equal-recall with its own loss .5.", TRAIN, "SHARE", min=0, max=1),
]  # fmt: skip
Objective = Annotated[
    str | None,
    option("What the decision is fitted to: equal-recall (the default) or accuracy; for labels "
           "prevalence (the default), f1 or equal-recall.", TRAIN, "NAME",
           callback=one_of(["equal-recall", "accuracy", "prevalence", "f1"])),
]  # fmt: skip
Epochs = Annotated[int, option("", TRAIN, min=1)]
BatchSize = Annotated[
    int | None, option("128 by default, 32 of fewer than 5,000 training examples.", TRAIN, min=2)
]
Lr = Annotated[float, option("Highest learning rate, of AdamW.", TRAIN)]
Device = Annotated[str, option("cpu, cuda, cuda:1, …; auto takes a GPU where there is one.", RUN)]
Threads = Annotated[int | None, option("Of the processor; all by default.", RUN, min=1)]

Net = Annotated[
    str | None,
    option("cnn (a small convolutional network), mlp (a perceptron, for features), or a model of "
           "torchvision such as resnet18, from scratch.", NET, "NAME"),
]  # fmt: skip
Width = Annotated[
    int | None,
    option("Channels of the first convolution (24); the hidden layer (256).", NET, min=1),
]
Bf16 = Annotated[
    bool | None,
    option("Compute in bfloat16; by default on a GPU.", NET, None, show_default=False),
]
Flip = Annotated[
    bool | None,
    option("Mirror half of the training images; by default those in colour.", NET, None),
]


def check_reading(data: Path, inputs: str | None, field: str | None, labels: str | None) -> None:
    """Wrong usage where an option is not for this kind of data."""
    suffix = data.suffix.lower()
    for name, value, able in (
        ("--inputs", inputs, (".npz", ".beton")),
        ("--field", field, (".npz", ".beton")),
        ("--labels", labels, (".arff",)),
    ):
        if value is not None and suffix not in able:
            raise typer.BadParameter(f"{name} is for {', '.join(able)}; DATA is {data.name}.")


def settled(
    context: typer.Context, given: dict[str, Any], stored: dict[str, Any], out: Path
) -> dict[str, Any]:
    """The options of the run in `out`; those of the command line that differ are an error."""
    for name, value in given.items():
        source: Any = context.get_parameter_source(name)
        theirs = stored.get(name)
        if source is not None and source.name == "COMMANDLINE" and value != theirs:
            raise ValueError(
                f"Expected --{name.replace('_', '-')} to be {theirs}, as the run in {out} was "
                f"started with, but got {value}."
            )
    return {name: stored.get(name, value) for name, value in given.items()}
