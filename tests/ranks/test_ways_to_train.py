"""Stopped at random in many ways to train: the remaining order is the one that would have come."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from equipoise import Balancer
from tests.ranks import programs
from tests.ranks.programs import GLOBAL_BATCH, Ids, N, end_epoch, labels_of, make

EPOCHS = 3
KILLS = 8  # in each of the ways: more than 100 in all
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11


def logits_of(balancer: Balancer, ids: torch.Tensor) -> torch.Tensor:
    classes = torch.arange(1.0, balancer.targets.num_classes + 1)
    return torch.sin(ids[:, None] * classes + balancer.epoch).requires_grad_()


Step = Callable[[Balancer, torch.Tensor, torch.Tensor], Any]


def plain(balancer: Balancer, ids: torch.Tensor, y: torch.Tensor) -> None:
    balancer.loss(logits_of(balancer, ids), y, ids).backward()


def mixup(balancer: Balancer, ids: torch.Tensor, y: torch.Tensor, permuted: int = 1) -> None:
    z, targets = logits_of(balancer, ids), [y, y]
    targets[permuted] = y[torch.randperm(len(y))]
    (0.7 * balancer.loss(z, targets[0]) + 0.3 * balancer.loss(z, targets[1])).backward()


def mixed_labels(balancer: Balancer, ids: torch.Tensor, y: torch.Tensor) -> None:
    z = logits_of(balancer, ids)
    q = torch.nn.functional.one_hot(y, z.shape[1]).float()
    kept = torch.rand(len(y) if balancer.epoch % 2 else 1, 1)
    balancer.loss(z, q.lerp(q[torch.randperm(len(y))], kept)).backward()


def sharpness_aware(balancer: Balancer, ids: torch.Tensor, y: torch.Tensor) -> None:
    for _ in range(2):
        balancer.loss(logits_of(balancer, ids), y).backward()


def closure(balancer: Balancer, ids: torch.Tensor, y: torch.Tensor) -> None:
    """As LBFGS: an unknown number of times, and with copies of the targets."""
    for _ in range(1 + int(ids.sum()) % 5):
        balancer.loss(logits_of(balancer, ids), y.clone()).backward()


def heads(balancer: Balancer, ids: torch.Tensor, y: torch.Tensor) -> None:
    z = logits_of(balancer, ids)
    sum(balancer.loss(z * scale, y) for scale in (1.0, 0.5, 0.1)).backward()


def other_targets_too(balancer: Balancer, ids: torch.Tensor, y: torch.Tensor) -> None:
    """A head with targets of its own, which cannot be known to be of the same batch."""
    z = logits_of(balancer, ids)
    others = (y + 1) % balancer.targets.num_classes
    (balancer.loss(z, y) + balancer.loss(z, others, new_batch=False)).backward()


def micro_batches(balancer: Balancer, ids: torch.Tensor, y: torch.Tensor) -> None:
    for some in torch.arange(len(y)).split(5):
        balancer.loss(logits_of(balancer, ids[some]), y[some]).backward()


def by_sampler(balancer: Balancer, workers: int = 0) -> DataLoader:
    return programs.loader_of(balancer, balancer.sampler.num_replicas, workers)


def by_batches(
    balancer: Balancer, loader: Any = DataLoader, workers: int = 0, torchs: bool = False
) -> DataLoader:
    """With our batches, or torch's `BatchSampler`."""
    batches = balancer.sampler.batches(GLOBAL_BATCH)
    if torchs:
        batches = BatchSampler(balancer.sampler, GLOBAL_BATCH, drop_last=False)
    context = "fork" if workers else None
    settings = {"num_workers": workers, "multiprocessing_context": context}
    return loader(Ids(labels_of(balancer)), batch_sampler=batches, **settings)


def stateful(balancer: Balancer) -> StatefulDataLoader:
    return StatefulDataLoader(Ids(labels_of(balancer)), GLOBAL_BATCH, sampler=balancer.sampler)


WAYS: dict[str, tuple[str, Callable[[Balancer], Any], Step]] = {
    "plain": ("closed loop", by_sampler, plain),
    "batches": ("closed loop", by_batches, plain),
    "BatchSampler": ("closed loop", partial(by_batches, torchs=True), plain),
    "StatefulDataLoader": ("closed loop", stateful, plain),
    "StatefulDataLoader over batches": (
        "closed loop",
        partial(by_batches, loader=StatefulDataLoader),
        mixup,
    ),
    # what was trained on counts, not what was prefetched
    "workers": ("closed loop", partial(by_sampler, workers=2), plain),
    "StatefulDataLoader, workers": (
        "closed loop",
        partial(by_batches, loader=StatefulDataLoader, workers=2),
        plain,
    ),
    "mixup": ("closed loop", by_sampler, mixup),
    "mixup, permuted first": ("closed loop", by_sampler, partial(mixup, permuted=0)),
    "mixup of class probabilities": ("closed loop", by_sampler, mixed_labels),
    "mixup of labels": ("multilabel", by_sampler, mixup),
    "SAM": ("closed loop", by_sampler, sharpness_aware),
    "LBFGS": ("closed loop", by_batches, closure),
    "heads": ("plain shuffling", by_sampler, heads),
    "heads with other targets": ("closed loop", by_sampler, other_targets_too),
    "accumulation": ("closed loop", by_sampler, micro_batches),
    "pruning": ("pruning", by_sampler, plain),
}


def batches_from(balancer: Balancer, loader: Any, step: Step) -> Iterator[list[int]]:
    """Train on; the ids of each batch that was trained on."""
    while balancer.epoch < EPOCHS:
        for ids, y, _ in loader:
            step(balancer, ids, y)
            yield ids.tolist()
        end_epoch(balancer, 0, 1)


def copied(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_after_a_stop_is_what_would_have_come(way):
    chance = random.Random(way)
    kind, load, step = WAYS[way]
    balancer = make(kind)
    whole = list(batches_from(balancer, load(balancer), step))
    kills = 0
    while kills < KILLS:
        trained: list[list[int]] = []
        state = None
        while len(trained) < len(whole):
            balancer = make(kind)
            loader = load(balancer)
            if state is not None:
                balancer.load_state_dict(state["balancer"])
                if "loader" in state and chance.random() < 0.5:
                    loader.load_state_dict(state["loader"])
            some = itertools.islice(batches_from(balancer, loader, step), chance.randint(1, 15))
            trained += list(some)
            kills += len(trained) < len(whole)
            state = {"balancer": balancer.state_dict()}
            if isinstance(loader, StatefulDataLoader):
                state["loader"] = loader.state_dict()
            state = copied(state)
        assert trained == whole


@pytest.mark.parametrize("step", [plain, mixup, micro_batches], ids=lambda step: step.__name__)
def test_breaking_off_and_iterating_again_counts_once(step):
    chance = random.Random(0)
    whole = list(batches_from(made := make("closed loop"), by_sampler(made), step))
    for _ in range(KILLS):
        balancer, again = make("closed loop"), make("closed loop")
        for _ in range(3):
            number = chance.randint(1, N // GLOBAL_BATCH - 1)
            list(itertools.islice(batches_from(balancer, by_sampler(balancer), step), number))
        again.load_state_dict(copied(balancer.state_dict()))
        assert again.position == number * GLOBAL_BATCH
        assert list(batches_from(again, by_sampler(again), step)) == whole[number:]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_skipping_twice_is_told():
    """A plain BatchSampler in a StatefulDataLoader, whose state is loaded beside the balancer's."""
    balancer, again = make("closed loop"), make("closed loop")
    loader, other = (by_batches(b, StatefulDataLoader, torchs=True) for b in (balancer, again))
    list(itertools.islice(batches_from(balancer, loader, plain), 5))
    again.load_state_dict(balancer.state_dict())
    other.load_state_dict(loader.state_dict())
    with pytest.warns(UserWarning, match=r"skipped twice.*sampler\.batches\(size\)"):
        next(batches_from(again, other, plain))


def test_own_losses_count_by_the_samplers_position():
    balancer = make("closed loop")
    list(itertools.islice(balancer.sampler, 7))
    with torch.no_grad():
        balancer.loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
    assert balancer.position == 7
    drawn = torch.as_tensor(programs.LABELS[list(balancer.sampler)[:4]])
    balancer.loss(torch.zeros(4, 3), drawn)
    assert balancer.position == 4
