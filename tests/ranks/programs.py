"""What the processes of the tests do: train a little, and say which examples they trained on."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from equipoise import Balancer, checkpoint
from equipoise.mining import LossMemory
from equipoise.samplers import ClassBalancedSampler

GLOBAL_BATCH = 12
N = 20 * GLOBAL_BATCH
CLASSES = 3
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), [150, 60, 30]))
MULTIHOT = np.random.default_rng(1).random((N, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]
MULTIHOT[:5] |= np.eye(5, dtype=bool)
PLACES = np.random.default_rng(3).integers(0, 2, N)
HELD = np.random.default_rng(2).integers(0, CLASSES, 60)


class Ids(Dataset):
    """Examples that are their own number, with their label."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[int, Any, int]:
        return i, self.labels[i], i


def make(kind: str, seed: int = 0, **options: Any) -> Balancer:
    if kind == "multilabel":
        return Balancer(MULTIHOT, "equal-recall", seed=seed, num_samples=N, **options)
    parts = {
        "closed loop": {},
        "plain shuffling": {"sampler": None},
        "pruning": {"mining": "loss-pruning"},
        "hardest": {"mining": "hardest-examples"},
        "groups": {"groups": PLACES},
        "groups, pruning": {"groups": PLACES, "mining": "loss-pruning"},
    }
    return Balancer(LABELS, seed=seed, **parts[kind], **options)


def labels_of(balancer: Balancer) -> np.ndarray:
    return MULTIHOT.astype(np.uint8) if balancer.multilabel else LABELS


def logits_for(ids: np.ndarray, epoch: int, classes: int) -> torch.Tensor:
    """Logits that are a function of example and epoch alone, so that all worlds see the same."""
    generators = [np.random.default_rng((int(i), epoch)) for i in ids]
    return torch.tensor(np.array([g.normal(size=classes) for g in generators])).float()


def logits_of(balancer: Balancer, ids: torch.Tensor) -> torch.Tensor:
    """What the net would say of these examples in the balancer's epoch."""
    logits = logits_for(ids.numpy(), 1000 + balancer.epoch, balancer.targets.num_classes)
    return logits.requires_grad_()


def step_on(balancer: Balancer, ids: torch.Tensor, labels: torch.Tensor) -> None:
    balancer.loss(logits_of(balancer, ids), labels, ids).backward()


def end_epoch(balancer: Balancer, rank: int, size: int) -> None:
    """Each rank observes its part of the hold-out."""
    mine = np.arange(len(HELD))[rank::size]
    classes = balancer.targets.num_classes
    truth = MULTIHOT[mine].astype(np.uint8) if balancer.multilabel else HELD[mine]
    groups = None if balancer.grouping is None else PLACES[mine]
    balancer.observe(logits_for(mine, balancer.epoch, classes), torch.as_tensor(truth), groups)
    balancer.step()


def loader_of(
    balancer: Balancer, size: int = 1, workers: int = 0, kind: Any = DataLoader, **order: Any
) -> Any:
    """A loader for each of `size` ranks; `order` may be another than the sampler's batches."""
    order = order or {"batch_size": GLOBAL_BATCH // size, "sampler": balancer.sampler}
    context = "fork" if workers else None
    data = Ids(labels_of(balancer))
    return kind(data, num_workers=workers, multiprocessing_context=context, **order)


def train_on(
    balancer: Balancer,
    loader: Any,
    epochs: int,
    step: Callable[[Balancer, torch.Tensor, torch.Tensor], Any] = step_on,
    rank: int = 0,
    size: int = 1,
) -> Iterator[list[int]]:
    """Train until that epoch; the ids of each batch that was trained on."""
    while balancer.epoch < epochs:
        for ids, labels, _ in loader:
            step(balancer, ids, labels)
            yield ids.tolist()
        end_epoch(balancer, rank, size)


def train(rank: int, size: int, kind: str, epochs: int) -> dict[str, Any]:
    """Ids of each step of this rank, and λ of each epoch."""
    balancer = make(kind)
    steps = list(train_on(balancer, loader_of(balancer, size), epochs, rank=rank, size=size))
    keys = ("epoch", "log_weight", "recalls")
    history = [{key: row[key] for key in keys} for row in balancer.history]
    return {"steps": steps, "history": history, "log_weight": balancer.log_weight.tolist()}


def differ(rank: int, size: int, what: str) -> None:
    """Rank 1 has another seed, or the labels in another order."""
    labels = np.roll(LABELS, 1) if what == "targets" and rank == 1 else LABELS
    Balancer(labels, seed=7 if what == "seed" and rank == 1 else 0)


def made_before_the_group(rank: int, size: int) -> tuple[list[str], list[int]]:
    """What is said of a balancer that was told (0, 1), and what it draws when told its rank."""
    balancer = Balancer(LABELS, sampler=ClassBalancedSampler(LABELS))  # rank 0 of 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(train_on(balancer, loader_of(balancer), 1, rank=rank, size=size))
    later = Balancer(LABELS, rank=0, num_replicas=1)
    later.set_ranks()
    return [str(each.message) for each in caught], list(later.sampler)


def loaded_on_one_rank(rank: int, size: int) -> None:
    balancer = make("closed loop")
    state = balancer.state_dict()
    if rank == 0:
        balancer.load_state_dict(state)
    end_epoch(balancer, rank, size)


REMEMBERED = 60


def losses_of(rank: int, round_: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The batches of losses a rank sees between two merges: ids, float32 losses."""
    rng = np.random.default_rng((rank, round_))
    ids = [rng.choice(REMEMBERED, 8, replace=False) for _ in range(2)]
    return [(i, rng.exponential(size=8).astype(np.float32)) for i in ids]


def remember(rank: int, size: int, rounds: int) -> list:
    """What a LossMemory holds after each merge."""
    memory, after = LossMemory(REMEMBERED), []
    for round_ in range(rounds):
        for ids, losses in losses_of(rank, round_):
            memory.update(torch.from_numpy(ids), torch.from_numpy(losses))
        memory.merge_ranks()
        after.append(memory.losses().tolist())
    return after


def train_and_save(
    rank: int,
    size: int,
    kind: str,
    epochs: int,
    folder: str,
    *,
    workers: int = 0,
    every: int = 3,
    stop_after: int | None = None,
    pause: float = 0.0,
) -> bool:
    """Train from the last checkpoint on; True when done.

    Rank r appends what it trains on to `log-r`, a line a step: which start of the program this is,
    epoch, global position before the step, ids. `stop_after` steps it leaves without a word.
    """
    balancer = make(kind)
    saved = Path(folder) / "last.pt"
    if saved.exists():
        balancer.load_state_dict(checkpoint.load(saved)["balancer"])
    loader = loader_of(balancer, size, workers)
    log = os.open(Path(folder) / f"log-{rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    start = time.time_ns()
    done = 0
    while balancer.epoch < epochs:
        for ids, labels, _ in loader:
            step_on(balancer, ids, labels)
            before = balancer.position - GLOBAL_BATCH
            line = [start, balancer.epoch, before, *ids.tolist()]
            os.write(log, (" ".join(map(str, line)) + "\n").encode())
            done += 1
            if rank == 0 and done % every == 0:
                checkpoint.save(saved, balancer=balancer)
            if stop_after is not None and done >= stop_after:
                os._exit(9)
            time.sleep(pause)
        end_epoch(balancer, rank, size)
        if rank == 0:
            checkpoint.save(saved, balancer=balancer)
    os.close(log)
    return True
