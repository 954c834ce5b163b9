"""Ways to wire a Balancer, right and wrong: each wrong one is told with its mend, no right one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    Sampler,
    Subset,
    TensorDataset,
)

from equipoise import Balancer
from equipoise.samplers import ClassBalancedSampler
from equipoise.trainers import GlobalOrder

N, BATCH = 400, 25
SEEDS = range(10)


def labels_of(seed: int, even: bool = False) -> np.ndarray:
    counts = [N // 4] * 4 if even else [260, 80, 40, 20]
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(4), counts))


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
    after: Callable[[], None] | None = None,
) -> None:
    """The loop: a batch's loss, hold-out, step."""
    compute = loss or balancer.loss
    for _ in range(epochs):
        for _, y in loader:
            compute(torch.zeros(len(y), balancer.targets.num_classes), y)
        observe(balancer)
        balancer.step()
        if after is not None:
            after()


def observe(balancer: Balancer) -> None:
    """A hold-out of some examples of each class."""
    classes = balancer.targets.num_classes
    logits = torch.randn(40 * classes, classes)
    targets = torch.arange(len(logits)) % classes
    balancer.observe(logits, nn.functional.one_hot(targets) if balancer.multilabel else targets)


def loader_of(balancer: Balancer, labels: Any, **settings: Any) -> DataLoader:
    return DataLoader(data_of(labels), BATCH, sampler=balancer.sampler, **settings)


# Right


def plain(seed: int) -> None:
    train(made := Balancer(y := labels_of(seed), seed=seed), loader_of(made, y))


def even(seed: int) -> None:
    train(made := Balancer(y := labels_of(seed, True), "plain", seed=seed), loader_of(made, y))


def all_by_the_sampler(seed: int) -> None:
    made = Balancer(y := labels_of(seed), "inverse-frequency", seed=seed)
    train(made, loader_of(made, y))


def all_by_the_loss(seed: int) -> None:
    train(made := Balancer(y := labels_of(seed), sampler=None, seed=seed), loader_of(made, y))


def batches(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, DataLoader(data_of(y), batch_sampler=made.sampler.batches(BATCH)))


def last_batch_cut(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, DataLoader(data_of(y), 33, sampler=made.sampler, drop_last=True))


def several_labels(seed: int) -> None:
    made = Balancer(y := multihot_of(seed), "inverse-frequency", seed=seed)
    train(made, loader_of(made, y))


def subset(seed: int) -> None:
    y, chosen = labels_of(seed), np.random.default_rng(seed).permutation(N)[: N // 2]
    made = Balancer(y[chosen], seed=seed)
    train(made, DataLoader(Subset(data_of(y), chosen), BATCH, sampler=made.sampler))


def mixup(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)

    def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.7 * made.loss(z, y) + 0.3 * made.loss(z, y[torch.randperm(len(y))])

    train(made, loader_of(made, y), loss=loss)


def dense(seed: int) -> None:
    """A class an image for the order, and pixels for the loss."""
    made = Balancer(y := labels_of(seed), seed=seed)

    def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return made.loss(z[..., None].expand(-1, -1, 6), y[:, None].expand(-1, 6))

    train(made, loader_of(made, y), loss=loss)
    assert made.position == 0


def mixed(y: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    q = nn.functional.one_hot(y, 4).float()
    return q.lerp(q[torch.randperm(len(y))], kept)


def mixed_labels(seed: int) -> None:
    """As torchvision's MixUp and CutMix do: one share a batch."""
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, loader_of(made, y), loss=lambda z, y: made.loss(z, mixed(y, torch.rand(1))))


def labels_mixed_one_by_one(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, loader_of(made, y), loss=lambda z, y: made.loss(z, mixed(y, torch.rand(len(y), 1))))


def sharpness_aware(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, loader_of(made, y), loss=lambda z, y: made.loss(z, y) + made.loss(z, y.clone()))


def micro_batches(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(
        made,
        loader_of(made, y),
        loss=lambda z, y: [made.loss(z[:9], y[:9]), made.loss(z[9:], y[9:])],
    )


def sorted_in_the_batch(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, loader_of(made, y), loss=lambda z, y: made.loss(z, y.sort().values))


def peeked_at(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    loader = loader_of(made, y)
    next(iter(loader))
    for _, first in loader:
        made.loss(torch.zeros(len(first), 4), first)
        break
    train(made, loader)


def bad_batches_left_out(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    rng = np.random.default_rng(seed)
    train(made, loader_of(made, y), loss=lambda z, y: rng.random() < 0.2 or made.loss(z, y))


def short_epochs(seed: int) -> None:
    made = Balancer(y := labels_of(seed), num_samples=4 * BATCH, seed=seed)
    train(made, loader_of(made, y), epochs=6)


def epochs_cut_short(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    loader = loader_of(made, y)

    def some() -> Iterator[Any]:
        for _, batch in zip(range(6), loader, strict=False):
            yield batch

    class Cut:
        def __iter__(self) -> Iterator[Any]:
            return some()

    train(made, Cut(), epochs=4)


def own_loss_all_by_the_sampler(seed: int) -> None:
    made = Balancer(y := labels_of(seed), sampler_share=1, seed=seed)
    train(made, loader_of(made, y), loss=nn.functional.cross_entropy)


def pruned(seed: int) -> None:
    made = Balancer(y := labels_of(seed), mining="loss-pruning", seed=seed)
    loader = DataLoader(data_of(y), BATCH, sampler=made.sampler)
    for _ in range(3):
        for i, y in loader:
            made.loss(torch.zeros(len(y), 4), y, i)
        observe(made)
        made.step()


def selective(seed: int) -> None:
    made = Balancer(y := labels_of(seed), mining="selective-backprop", seed=seed)
    loader = DataLoader(
        TensorDataset(torch.randn(N, 3), torch.as_tensor(y)), BATCH, sampler=made.sampler
    )
    net = nn.Linear(3, 4)
    for _ in range(2):
        for x, y in made.mine(loader, net):
            made.loss(net(x), y)
        observe(made)
        made.step()


def resumed(seed: int) -> None:
    y = labels_of(seed)
    made, again = (Balancer(y, seed=seed) for _ in range(2))
    stream = iter(loader_of(made, y))
    for _ in range(5):
        _, some = next(stream)
        made.loss(torch.zeros(len(some), 4), some)
    again.load_state_dict(made.state_dict())
    train(again, loader_of(again, y))


def one_rank_of_three(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed, rank=1, num_replicas=3)
    train(made, loader_of(made, y))


def dealt_out_in_blocks(seed: int) -> None:
    """As accelerate deals out a GlobalOrder: rank 1 of 2 gets every second batch."""
    made = Balancer(y := labels_of(seed), seed=seed, rank=1, num_replicas=2)
    loader = DataLoader(data_of(y), BATCH, sampler=GlobalOrder(made))

    class Second:
        def __iter__(self) -> Iterator[Any]:
            return iter(list(loader)[1::2])

    train(made, Second())


def fabric(seed: int) -> None:
    loops_fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    made = Balancer(y := labels_of(seed), seed=seed)
    loader = DataLoader(data_of(y), BATCH, sampler=GlobalOrder(made))
    train(made, loops_fabric.setup_dataloaders(loader))


def accelerate(seed: int) -> None:
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, accelerator.prepare(DataLoader(data_of(y), BATCH, sampler=GlobalOrder(made))))


def workers(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    more = {"num_workers": 1, "multiprocessing_context": "fork"} if seed == 0 else {}
    train(made, loader_of(made, y, **more))


RIGHT = [
    plain, even, all_by_the_sampler, all_by_the_loss, batches, last_batch_cut, several_labels,
    subset, mixup, dense, mixed_labels, labels_mixed_one_by_one, sharpness_aware,
    micro_batches, sorted_in_the_batch, peeked_at,
    bad_batches_left_out, short_epochs, epochs_cut_short, own_loss_all_by_the_sampler, pruned,
    selective, resumed, one_rank_of_three, dealt_out_in_blocks, fabric, accelerate, workers,
]  # fmt: skip


# Wrong


class Split(Sampler):
    """What Lightning, Fabric and accelerate put around a sampler: this rank's part of it."""

    def __init__(self, sampler: Any, rank: int, num_replicas: int) -> None:
        self.sampler, self.rank, self.num_replicas = sampler, rank, num_replicas

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        order = list(self.sampler)
        return iter(order[i] for i in DistributedSampler(
            order, self.num_replicas, self.rank, shuffle=False
        ))  # fmt: skip


def subset_forgotten(seed: int) -> None:
    y = labels_of(seed)
    train(made := Balancer(y[: N // 2], seed=seed), loader_of(made, y[::-1].copy()))


def another_data_set(seed: int) -> None:
    made = Balancer(labels_of(seed), seed=seed)
    train(made, loader_of(made, labels_of(seed + 100)))


def another_data_set_mixed(seed: int) -> None:
    made = Balancer(labels_of(seed), "inverse-frequency", seed=seed)
    y = labels_of(seed + 100)
    train(made, loader_of(made, y), loss=lambda z, y: made.loss(z, mixed(y, torch.rand(1))))


def labels_in_another_order(seed: int) -> None:
    made = Balancer(np.sort(y := labels_of(seed)), seed=seed)
    train(made, loader_of(made, y))


def even_labels_in_another_order(seed: int) -> None:
    made = Balancer(np.sort(y := labels_of(seed, True)), "plain", seed=seed)
    train(made, loader_of(made, y))


def several_labels_in_another_order(seed: int) -> None:
    y = multihot_of(seed)
    train(made := Balancer(y, "inverse-frequency", seed=seed), loader_of(made, y[::-1].copy()))


def shuffled(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, DataLoader(data_of(y), BATCH, shuffle=True))


def even_shuffled(seed: int) -> None:
    made = Balancer(y := labels_of(seed, True), "plain", seed=seed)
    train(made, DataLoader(data_of(y), BATCH, shuffle=True))


def several_labels_shuffled(seed: int) -> None:
    made = Balancer(y := multihot_of(seed), seed=seed)
    train(made, DataLoader(data_of(y), BATCH, shuffle=True))


def drawn_by_torch(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    other = torch.utils.data.WeightedRandomSampler(1.0 / np.bincount(y)[y], N)
    train(made, DataLoader(data_of(y), BATCH, sampler=other))


def distributed_sampler_instead(seed: int) -> None:
    made = Balancer(y := labels_of(seed), rank=0, num_replicas=2, seed=seed)
    sampler = DistributedSampler(data_of(y), 2, 0)
    train(made, DataLoader(data_of(y), BATCH, sampler=sampler))


def split_twice(seed: int) -> None:
    made = Balancer(y := labels_of(seed), rank=1, num_replicas=2, seed=seed)
    train(made, DataLoader(data_of(y), BATCH, sampler=Split(made.sampler, 1, 2)))


def split_by_another(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, DataLoader(data_of(y), BATCH, sampler=Split(made.sampler, 0, 2)))


def own_loss(seed: int) -> None:
    made = Balancer(y := labels_of(seed), seed=seed)
    train(made, loader_of(made, y), loss=nn.functional.cross_entropy)


def never_stepped(seed: int) -> None:
    made = Balancer(y := labels_of(seed), "inverse-frequency", seed=seed)
    for _ in range(2):
        for _, y in loader_of(made, labels_of(seed)):
            made.loss(torch.zeros(len(y), 4), y)


def stepped_each_second_epoch(seed: int) -> None:
    made = Balancer(y := labels_of(seed), "inverse-frequency", seed=seed)
    loader = loader_of(made, y)

    class Twice:
        def __iter__(self) -> Iterator[Any]:
            return (batch for _ in range(2) for batch in loader)

    train(made, Twice())


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
    stream = iter(loader_of(made, y))
    for _ in range(5):
        _, some = next(stream)
        made.loss(torch.zeros(len(some), 4), some)
    again.load_state_dict(made.state_dict())
    stream = iter(loader_of(again, y))
    for _ in range(5):  # as a loader that restores its own state
        next(stream)
    for _, some in stream:
        again.loss(torch.zeros(len(some), 4), some)


def own_sampler_beside(seed: int) -> None:
    """A sampler with the same classes, but made apart from the balancer."""
    made = Balancer(y := labels_of(seed), "inverse-frequency", seed=seed)
    train(made, DataLoader(data_of(y), BATCH, sampler=ClassBalancedSampler(y, seed=seed + 1)))


WRONG: dict[Callable[[int], None], str] = {
    subset_forgotten: "labels of the very data set",
    another_data_set: "labels of the very data set",
    another_data_set_mixed: "labels of the very data set",
    labels_in_another_order: "labels of the very data set",
    even_labels_in_another_order: "labels in the order of the data set",
    several_labels_in_another_order: "labels (in the order )?of the",
    shuffled: "without shuffle=True",
    even_shuffled: "without shuffle=True",
    several_labels_shuffled: "without shuffle=True",
    drawn_by_torch: "without shuffle=True",
    distributed_sampler_instead: "without shuffle=True",
    split_twice: "GlobalOrder",
    split_by_another: "GlobalOrder",
    own_loss: "sampler_share=1",
    never_stepped: r"balancer\.step\(\) after each pass",
    stepped_each_second_epoch: r"balancer\.step\(\) after each pass",
    stepped_within_an_epoch: "num_samples",
    sent_to_another_epoch: "GlobalOrder",
    skipped_twice: r"sampler\.batches\(size\)",
    own_sampler_beside: "without shuffle=True",
}


@pytest.mark.parametrize("way", RIGHT, ids=lambda way: way.__name__)
def test_right_ways_are_left_in_peace(way):
    for seed in SEEDS:
        torch.manual_seed(seed)
        way(seed)


@pytest.mark.parametrize("way", WRONG, ids=lambda way: way.__name__)
def test_wrong_ways_are_told_once_with_the_mend(way):
    for seed in SEEDS:
        torch.manual_seed(seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            way(seed)
        said = [str(each.message) for each in caught]
        assert len(said) == 1, said
        with pytest.warns(UserWarning, match=WRONG[way]):
            warnings.warn(said[0], stacklevel=1)
        assert "docs/is-it-wired-right.md" in said[0]
        assert "\n" not in said[0]
