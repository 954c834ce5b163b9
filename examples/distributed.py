"""Several processes, one order: digits with rare classes under torchrun, resumed where it was.

    torchrun --nproc-per-node 2 examples/distributed.py --epochs 8 --out runs/distributed

Two lines differ from training in one process, marked below. Every rank makes the same `Balancer`,
which looks up its rank: the global batch at each step is the same for any number of processes, and
`step` adds up what each has seen of the hold-out. Stop it at any time and start it again, with
another number of processes if you like: it goes on after the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from equipoise import Balancer, checkpoint, holdout_split


def data() -> tuple[TensorDataset, TensorDataset]:
    """Digits of which 9 is a fifth as frequent as 0; a stratified hold-out."""
    digits = load_digits()
    share = 0.2 ** (np.arange(10) / 9)
    kept = np.concatenate(
        [(i := np.flatnonzero(digits.target == c))[: round(share[c] * len(i))] for c in range(10)]
    )
    inputs = torch.from_numpy(digits.data[kept] / 16).float()
    labels = torch.from_numpy(digits.target[kept])
    train, held = holdout_split(labels, 0.2)
    return TensorDataset(inputs[train], labels[train]), TensorDataset(inputs[held], labels[held])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--global-batch", type=int, default=48)
    parser.add_argument("--out", default="runs/distributed")
    args = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    run(args, parser)  # when it returns the model is gone: it must not outlive the process group
    dist.barrier()
    dist.destroy_process_group()


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if args.global_batch % ranks:
        parser.error(f"--global-batch {args.global_batch} is not a multiple of {ranks} processes")

    train, held = data()
    # 1. A number of draws that is a multiple of the global batch: no rank waits for another.
    draws = len(train) // args.global_batch * args.global_batch
    balancer = Balancer(train.tensors[1], num_samples=draws)
    loader = DataLoader(train, args.global_batch // ranks, sampler=balancer.sampler)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)

    saved = Path(args.out) / "last.pt"
    if saved.exists():
        states = checkpoint.load(saved)
        for name, part in (("model", model), ("optimizer", optimizer), ("balancer", balancer)):
            part.load_state_dict(states[name])
        if rank == 0:
            print(f"going on in epoch {balancer.epoch}, after {balancer.position} examples")

    def save() -> None:
        if rank == 0:
            saved.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save(saved, model=model, optimizer=optimizer, balancer=balancer)

    while balancer.epoch < args.epochs:
        model.train()
        for step, (inputs, labels) in enumerate(loader, 1):
            balancer.loss(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 10 == 0:
                save()
        model.eval()
        with torch.no_grad():  # 2. Each rank observes its part of the hold-out.
            balancer.observe(model(held.tensors[0][rank::ranks]), held.tensors[1][rank::ranks])
        balancer.step()
        save()
        if rank == 0:
            row = balancer.history[-1]
            print(
                f"epoch {row['epoch']}: mean recall {row['mean_recall']:.3f}, "
                f"sd {row['sd_recall']:.3f}, lowest {row['lowest_recall']:.3f}"
            )


if __name__ == "__main__":
    main()
