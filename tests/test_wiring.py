"""Ways to wire a Balancer, right and wrong: each wrong one is told with its mend, no right one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, Subset, TensorDataset

from equipoise import Balancer
from equipoise.samplers import ClassBalancedSampler
from equipoise.trainers import GlobalOrder

N, BATCH = 400, 25
SEEDS = range(10)


def labels_of(seed: int, counts: tuple[int, ...] = (260, 80, 40, 20)) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(4), counts))


even_labels_of = partial(labels_of, counts=(N // 4,) * 4)


def multihot_of(seed: int) -> np.ndarray:
    hot = np.random.default_rng(seed).random((N, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]
    hot[:5] |= np.eye(5, dtype=bool)
    return hot.astype(np.uint8)


def data_of(labels: Any) -> TensorDataset:
    return TensorDataset(torch.arange(len(labels)), torch.as_tensor(labels))


def train(
    balancer: Balancer,
    loader: Any,
    epochs: int = 2,
    loss: Callable[..., torch.Tensor] | None = None,
) -> None:
    """The loop: a batch's loss, hold-out, step."""
    compute = loss or balancer.loss
    for _ in range(epochs):
        for _, y in loader:
            compute(torch.zeros(len(y), balancer.targets.num_classes), y)
        observe(balancer)
        balancer.step()


def observe(balancer: Balancer) -> None:
    """A hold-out of some examples of each class."""
    classes = balancer.targets.num_classes
    logits = torch.randn(40 * classes, classes)
    targets = torch.arange(len(logits)) % classes
    balancer.observe(logits, nn.functional.one_hot(targets) if balancer.multilabel else targets)


def loader_of(balancer: Balancer, labels: Any, size: int = BATCH, **settings: Any) -> DataLoader:
    if not settings.keys() & {"sampler", "batch_sampler", "shuffle"}:
        settings["sampler"] = balancer.sampler
    if "batch_sampler" not in settings:
        settings["batch_size"] = size
    return DataLoader(data_of(labels), **settings)


def mixed(y: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    q = nn.functional.one_hot(y, 4).float()
    return q.lerp(q[torch.randperm(len(y))], kept)


class Each:
    """Iterates what a function gives, anew each time."""

    def __init__(self, batches: Callable[[], Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches())


def way(
    given: Callable[[int], Any] = labels_of,
    policy: str | None = None,
    load: Callable[[Balancer, Any], Any] = loader_of,
    loss: Callable[[Balancer, torch.Tensor, torch.Tensor], Any] | None = None,
    data: Callable[[int], Any] | None = None,
    epochs: int = 2,
    **settings: Any,
) -> Callable[[int], Balancer]:
    """Trains a Balancer of `given(seed)` on what `load` makes of it, or of `data(seed)`."""

    def run(seed: int) -> Balancer:
        made = Balancer(given(seed), policy, seed=seed, **settings)
        loader = load(made, (data or given)(seed))
        train(made, loader, epochs, None if loss is None else partial(loss, made))
        return made

    return run


def dense(seed: int) -> None:
    """A class an image for the order, and pixels for the loss."""

    def loss(made: Balancer, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return made.loss(z[..., None].expand(-1, -1, 6), y[:, None].expand(-1, 6))

    assert way(loss=loss)(seed).position == 0


def peeked_at(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    loader = loader_of(made, y)
    next(iter(loader))
    _, first = next(iter(loader))
    made.loss(torch.zeros(len(first), 4), first)
    train(made, loader)


def selective(seed: int) -> None:
    made = Balancer(y := labels_of(seed), mining="selective-backprop", seed=seed)
    points = TensorDataset(torch.randn(N, 3), torch.as_tensor(y))
    net = nn.Linear(3, 4)
    for _ in range(2):
        for x, some in made.mine(DataLoader(points, BATCH, sampler=made.sampler), net):
            made.loss(net(x), some)
        observe(made)
        made.step()


def fabric(made: Balancer, y: Any) -> Any:
    one = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    return one.setup_dataloaders(loader_of(made, y, sampler=GlobalOrder(made)))


def accelerate(made: Balancer, y: Any) -> Any:
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    return accelerator.prepare(loader_of(made, y, sampler=GlobalOrder(made)))


def workers(made: Balancer, y: Any) -> DataLoader:
    more = {"num_workers": 1, "multiprocessing_context": "fork"} if made.sampler.seed == 0 else {}
    return loader_of(made, y, **more)


CHOSEN = np.random.default_rng(0).permutation(N)[: N // 2]

RIGHT: dict[str, Callable[[int], Any]] = {
    "plain": way(),
    "even": way(even_labels_of, "plain"),
    "all by the sampler": way(policy="inverse-frequency"),
    "all by the loss": way(sampler=None),
    "batches": way(load=lambda b, y: loader_of(b, y, batch_sampler=b.sampler.batches(BATCH))),
    "last batch cut": way(load=lambda b, y: loader_of(b, y, 33, drop_last=True)),
    "several labels": way(multihot_of, "inverse-frequency"),
    "subset": way(
        lambda seed: labels_of(seed)[CHOSEN],
        load=lambda b, y: DataLoader(Subset(data_of(y), CHOSEN), BATCH, sampler=b.sampler),
        data=labels_of,
    ),
    "mixup": way(
        loss=lambda b, z, y: 0.7 * b.loss(z, y) + 0.3 * b.loss(z, y[torch.randperm(len(y))])
    ),
    "dense": dense,
    # as torchvision's MixUp and CutMix do, one share a batch; and a share for each example
    "mixed labels": way(loss=lambda b, z, y: b.loss(z, mixed(y, torch.rand(1)))),
    "mixed one by one": way(loss=lambda b, z, y: b.loss(z, mixed(y, torch.rand(len(y), 1)))),
    "sharpness-aware": way(loss=lambda b, z, y: b.loss(z, y) + b.loss(z, y.clone())),
    "micro-batches": way(loss=lambda b, z, y: [b.loss(z[:9], y[:9]), b.loss(z[9:], y[9:])]),
    "sorted in the batch": way(loss=lambda b, z, y: b.loss(z, y.sort().values)),
    "peeked at": peeked_at,
    "bad batches left out": way(loss=lambda b, z, y: torch.rand(1) < 0.2 or b.loss(z, y)),
    "short epochs": way(num_samples=4 * BATCH, epochs=6),
    "epochs cut short": way(load=lambda b, y: Each(lambda: islice(loader_of(b, y), 6)), epochs=4),
    "own loss, all by the sampler": way(
        loss=lambda b, z, y: nn.functional.cross_entropy(z, y), sampler_share=1
    ),
    "selective": selective,
    "one rank of three": way(rank=1, num_replicas=3),
    # as accelerate deals out a GlobalOrder: rank 1 of 2 gets every second batch
    "dealt out in blocks": way(
        load=lambda b, y: Each(lambda: list(loader_of(b, y, sampler=GlobalOrder(b)))[1::2]),
        rank=1,
        num_replicas=2,
    ),
    "fabric": way(load=fabric),
    "accelerate": way(load=accelerate),
    "workers": way(load=workers),
}


# Wrong


def split(made: Balancer, y: Any) -> DataLoader:
    """Half of a sampler's order, as Lightning, Fabric and accelerate leave to a rank."""
    return loader_of(made, y, sampler=Each(lambda: list(made.sampler)[made.sampler.rank :: 2]))


def never_stepped(seed: int) -> None:
    made = Balancer(y := labels_of(seed), "inverse-frequency", seed=seed)
    for _ in range(2):
        for _, some in loader_of(made, y):
            made.loss(torch.zeros(len(some), 4), some)


def stepped_within_an_epoch(seed: int) -> None:
    made = Balancer(labels := labels_of(seed), seed=seed)
    for i, (_, y) in enumerate(loader_of(made, labels)):
        made.loss(torch.zeros(len(y), 4), y)
        if i % 8 == 7:
            observe(made)
            made.step()


def sent_to_another_epoch(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    made.sampler.set_epoch(5)
    train(made, loader_of(made, y), epochs=1)


def skipped_twice(seed: int) -> None:
    y = labels_of(seed)
    made, again = (Balancer(y, seed=seed) for _ in range(2))
    for _, some in islice(loader_of(made, y), 5):
        made.loss(torch.zeros(len(some), 4), some)
    again.load_state_dict(made.state_dict())
    for _, some in islice(loader_of(again, y), 5, None):  # as a loader that restores its own state
        again.loss(torch.zeros(len(some), 4), some)


def twice(made: Balancer, y: Any) -> Each:
    loader = loader_of(made, y)
    return Each(lambda: chain(loader, loader))


def by_torch(made: Balancer, y: Any) -> DataLoader:
    weights = 1.0 / np.bincount(y)[y]
    return loader_of(made, y, sampler=torch.utils.data.WeightedRandomSampler(weights, N))


def another(seed: int) -> np.ndarray:
    return labels_of(seed + 100)


def shuffled(made: Balancer, y: Any) -> DataLoader:
    return loader_of(made, y, shuffle=True)


VERY, ORDER = "labels of the very data set", "labels in the order of the data set"
SHUFFLE, STEP = "without shuffle=True", r"balancer\.step\(\) after each pass"

WRONG: dict[str, tuple[Callable[[int], Any], str]] = {
    "subset forgotten": (
        way(lambda seed: labels_of(seed)[: N // 2], data=lambda seed: labels_of(seed)[::-1].copy()),
        VERY,
    ),
    "another data set": (way(data=another), VERY),
    "another data set, mixed": (
        way(
            policy="inverse-frequency",
            data=another,
            loss=lambda b, z, y: b.loss(z, mixed(y, torch.rand(1))),
        ),
        VERY,
    ),
    "labels in another order": (way(lambda s: np.sort(labels_of(s)), data=labels_of), VERY),
    "even labels in another order": (
        way(lambda s: np.sort(even_labels_of(s)), "plain", data=even_labels_of),
        ORDER,
    ),
    "several labels in another order": (
        way(multihot_of, "inverse-frequency", data=lambda s: multihot_of(s)[::-1].copy()),
        "labels (in the order )?of the",
    ),
    "shuffled": (way(load=shuffled), SHUFFLE),
    "even, shuffled": (way(even_labels_of, "plain", load=shuffled), SHUFFLE),
    "several labels, shuffled": (way(multihot_of, load=shuffled), SHUFFLE),
    "drawn by torch": (way(load=by_torch), SHUFFLE),
    "DistributedSampler instead": (
        way(
            load=lambda b, y: loader_of(b, y, sampler=DistributedSampler(data_of(y), 2, 0)),
            rank=0,
            num_replicas=2,
        ),
        SHUFFLE,
    ),
    "split twice": (way(load=split, rank=1, num_replicas=2), "GlobalOrder"),
    "split by another": (way(load=split), "GlobalOrder"),
    "own loss": (way(loss=lambda b, z, y: nn.functional.cross_entropy(z, y)), "sampler_share=1"),
    "never stepped": (never_stepped, STEP),
    "stepped each second epoch": (way(policy="inverse-frequency", load=twice), STEP),
    "stepped within an epoch": (stepped_within_an_epoch, "num_samples"),
    "sent to another epoch": (sent_to_another_epoch, "GlobalOrder"),
    "skipped twice": (skipped_twice, r"sampler\.batches\(size\)"),
    "a like sampler made apart": (
        way(
            policy="inverse-frequency",
            load=lambda b, y: loader_of(
                b, y, sampler=ClassBalancedSampler(y, seed=b.sampler.seed + 1)
            ),
        ),
        SHUFFLE,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_ways_are_left_in_peace(name):
    for seed in SEEDS:
        torch.manual_seed(seed)
        RIGHT[name](seed)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ways_are_told_once_with_the_mend(name):
    run, mend = WRONG[name]
    for seed in SEEDS:
        torch.manual_seed(seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(seed)
        said = [str(each.message) for each in caught]
        assert len(said) == 1, said
        assert re.search(mend, said[0])
        assert "docs/is-it-wired-right.md" in said[0]
        assert "\n" not in said[0]
