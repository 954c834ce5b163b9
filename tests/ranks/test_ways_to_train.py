"""Stopped at random in many ways to train: the remaining order is the one that would have come."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from equipoise import Balancer
from tests.ranks import programs
from tests.ranks.programs import GLOBAL_BATCH, N, loader_of, logits_of, make, step_on, train_on
from tests.states import saved

EPOCHS = 3
KILLS = 8  # in each of the ways: more than 100 in all
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11

Step = Callable[[Balancer, torch.Tensor, torch.Tensor], Any]


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


def by_batches(balancer: Balancer, **settings: Any) -> DataLoader:
    return loader_of(balancer, batch_sampler=balancer.sampler.batches(GLOBAL_BATCH), **settings)


def by_torchs_batches(balancer: Balancer) -> DataLoader:
    return loader_of(balancer, batch_sampler=BatchSampler(balancer.sampler, GLOBAL_BATCH, False))


stateful = partial(loader_of, kind=StatefulDataLoader)
stateful_batches = partial(by_batches, kind=StatefulDataLoader)

WAYS: dict[str, tuple[str, Callable[[Balancer], Any], Step]] = {
    "plain": ("closed loop", loader_of, step_on),
    "batches": ("closed loop", by_batches, step_on),
    "BatchSampler": ("closed loop", by_torchs_batches, step_on),
    "StatefulDataLoader": ("closed loop", stateful, step_on),
    "StatefulDataLoader over batches": ("closed loop", stateful_batches, mixup),
    # what was trained on counts, not what was prefetched
    "workers": ("closed loop", partial(loader_of, workers=2), step_on),
    "StatefulDataLoader, workers": ("closed loop", partial(stateful_batches, workers=2), step_on),
    "mixup": ("closed loop", loader_of, mixup),
    "mixup, permuted first": ("closed loop", loader_of, partial(mixup, permuted=0)),
    "mixup of class probabilities": ("closed loop", loader_of, mixed_labels),
    "mixup of labels": ("multilabel", loader_of, mixup),
    "SAM": ("closed loop", loader_of, sharpness_aware),
    "LBFGS": ("closed loop", by_batches, closure),
    "heads": ("plain shuffling", loader_of, heads),
    "heads with other targets": ("closed loop", loader_of, other_targets_too),
    "accumulation": ("closed loop", loader_of, micro_batches),
    "pruning": ("pruning", loader_of, step_on),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_after_a_stop_is_what_would_have_come(way):
    chance = random.Random(way)
    kind, load, step = WAYS[way]
    whole = list(train_on(made := make(kind), load(made), EPOCHS, step))
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
            some = itertools.islice(train_on(balancer, loader, EPOCHS, step), chance.randint(1, 15))
            trained += list(some)
            kills += len(trained) < len(whole)
            state = {"balancer": balancer.state_dict()}
            if isinstance(loader, StatefulDataLoader):
                state["loader"] = loader.state_dict()
            state = saved(state)
        assert trained == whole


@pytest.mark.parametrize("step", [step_on, mixup, micro_batches], ids=lambda step: step.__name__)
def test_breaking_off_and_iterating_again_counts_once(step):
    chance = random.Random(0)
    whole = list(train_on(made := make("closed loop"), loader_of(made), EPOCHS, step))
    for _ in range(KILLS):
        balancer, again = make("closed loop"), make("closed loop")
        for _ in range(3):
            number = chance.randint(1, N // GLOBAL_BATCH - 1)
            list(itertools.islice(train_on(balancer, loader_of(balancer), EPOCHS, step), number))
        again.load_state_dict(saved(balancer.state_dict()))
        assert again.position == number * GLOBAL_BATCH
        assert list(train_on(again, loader_of(again), EPOCHS, step)) == whole[number:]


def test_own_losses_count_by_the_samplers_position():
    balancer = make("closed loop")
    list(itertools.islice(balancer.sampler, 7))
    with torch.no_grad():
        balancer.loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
    assert balancer.position == 7
    drawn = torch.as_tensor(programs.LABELS[list(balancer.sampler)[:4]])
    balancer.loss(torch.zeros(4, 3), drawn)
    assert balancer.position == 4
