"""Settings of a run: what is chosen, what follows from the data, and the Balancer they make."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from equipoise.balancer import Balancer
from equipoise.balancer.parts import LOSSES, MINERS
from equipoise.losses import Loss, WeightedBCE, WeightedCrossEntropy, pos_weight_from_counts
from equipoise.targets import Targets
from equipoise.training.data import Data
from equipoise.weighting import POLICIES

__all__ = ["METHODS", "Settings", "make_balancer", "settings_of_method"]

# Losses beside those the Balancer knows by name, made in `make_balancer`
EXTRA: dict[str, Any] = {"cross-entropy": None, "pos-weight": None}
CLASS_OBJECTIVES = ("equal-recall", "accuracy")
LABEL_OBJECTIVES = ("prevalence", "f1", "equal-recall")
METHODS = {
    "policies": [*POLICIES],
    "losses": [*EXTRA, *LOSSES],
    "miners": [*MINERS],
}


@dataclass(frozen=True)
class Settings:
    """How a network is trained; `None` is chosen for the data, see `for_data`.

    Args:
        policy, loss, mining, sampler_share: of the `Balancer`. Losses beside those it knows by
            name: "cross-entropy" (for labels the binary one), and "pos-weight" (for labels:
            positives weighted by negatives / positives).
        objective: of `Balancer.fit_decision`.
        net, width: see `make_net`.
        epochs, batch_size, lr: AdamW, a rate that rises over a fifth of the run and falls to 0.
        seed: of weights, order, dropout and augmentation.
        device: "auto", "cpu", "cuda", …
        bf16: whether the network computes in bfloat16.
        flip: whether half of the training images are mirrored.
    """

    policy: str | None = None
    loss: str | None = None
    mining: str | None = None
    sampler_share: float | None = None
    objective: str | None = None
    net: str | None = None
    width: int | None = None
    epochs: int = 15
    batch_size: int | None = None
    lr: float = 3e-3
    seed: int = 0
    device: str = "auto"
    bf16: bool | None = None
    flip: bool | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("width", self.width),
            ("lr", self.lr),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"Expected {name} to be above 0, but got {value}.")
        if self.batch_size == 1:
            raise ValueError("Expected batch_size to be at least 2, for batch norm, but got 1.")

    def for_data(self, data: Data) -> Settings:
        """The same with every `None` chosen: by size and kind of the data, and the device."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise ValueError(
                f"Expected device to be one torch can use, but got {device!r}: {error}."
            ) from error
        net = self.net or ("cnn" if data.images else "mlp")
        if data.images == (net == "mlp"):
            able = "cnn, or one of torchvision, for images" if data.images else "mlp for features"
            raise ValueError(f"Expected net to be {able}, but got {net!r}.")
        objectives = LABEL_OBJECTIVES if data.targets.multilabel else CLASS_OBJECTIVES
        if self.objective not in (None, *objectives):
            kind = "labels" if data.targets.multilabel else "classes"
            raise ValueError(
                f"Expected objective to be {' or '.join(objectives)} for {kind}, "
                f"but got {self.objective!r}."
            )
        return replace(
            self,
            device=device,
            net=net,
            width=self.width or (24 if data.images else 256),
            batch_size=self.batch_size or (32 if len(data.train) < 5000 else 128),
            bf16=device.startswith("cuda") if self.bf16 is None else self.bf16,
            flip=data.images and data.inputs.shape[-1] == 3 if self.flip is None else self.flip,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def make_balancer(targets: Targets, settings: Settings) -> Balancer:
    """The Balancer of a run."""
    loss: str | Loss | None = settings.loss
    if loss == "cross-entropy":
        loss = WeightedBCE() if targets.multilabel else WeightedCrossEntropy()
    elif loss == "pos-weight":
        if not targets.multilabel:
            raise ValueError("Expected loss to be one for class ids, but got 'pos-weight'.")
        loss = WeightedBCE(pos_weight_from_counts(targets.counts.tolist(), targets.num_examples))
    return Balancer(
        targets,
        settings.policy,
        mining=settings.mining,
        loss=loss,
        seed=settings.seed,
        sampler_share=settings.sampler_share,
    )


def settings_of_method(method: str, settings: Settings) -> Settings:
    """The settings of a method: names of a policy, a loss and a miner, joined by +.

    "plain" is the policy "plain" with cross-entropy; "balancer" the Balancer's defaults. A policy
    brings the loss that a Balancer takes for it; without a policy it is "plain".

    Raises:
        ValueError: a name that is unknown, or two of one kind.

    Example:
        >>> found = settings_of_method("equal-recall+focal", Settings())
        >>> found.policy, found.loss, found.mining
        ('equal-recall', 'focal', None)
    """
    if method == "balancer":
        return replace(settings, policy=None, loss=None, mining=None)
    chosen: dict[str, str] = {}
    for name in method.split("+"):
        kinds: dict[str, Any] = {"policy": POLICIES, "loss": EXTRA | LOSSES, "mining": MINERS}
        kind = next((kind for kind, known in kinds.items() if name in known), None)
        if kind is None or kind in chosen:
            wrong = "an unknown one" if kind is None else f"a second {kind}"
            known = ", ".join(name for names in METHODS.values() for name in names)
            raise ValueError(
                f"Expected a method to be balancer, {known}, or such joined by +, "
                f"but got {method!r}, with {wrong}: {name!r}."
            )
        chosen[kind] = name
    policy = chosen.get("policy", "plain")
    return replace(
        settings,
        policy=policy,
        loss=chosen.get("loss", "cross-entropy" if policy == "plain" else None),
        mining=chosen.get("mining"),
    )
