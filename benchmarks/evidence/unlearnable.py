"""What a class that cannot be learnt costs the others: made data, plain against two loops.

    python -m benchmarks.evidence.unlearnable

Ten Gaussian classes in 20 dimensions, 400 training, 100 hold-out and 500 test examples of each, a
network with one hidden layer of 64, 25 epochs, three seeds. In turn: two of the classes are one
thing under two names; the hold-out examples of one class are really of others; three classes have
no signal.
Prints mean and lowest recall as trained and decided, the largest share of the draws that a hopeless
class ever took, and which classes were named in a warning.
"""

from __future__ import annotations

import argparse
import re
import warnings

import numpy as np
import torch
from torch import nn

from equipoise import Balancer

CLASSES, DIMENSIONS = 10, 20
CASES = {"two names": [8, 9], "mislabelled hold-out": [3], "no signal": [0, 1, 2]}


def draw(case: str, part: str, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points and labels; the classes lie where they lie in every part and for every seed."""
    generator = torch.Generator().manual_seed(
        1000 * seed + {"train": 1, "held": 2, "test": 3}[part]
    )
    centres = torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(7)) * 0.62
    labels = torch.arange(CLASSES).repeat_interleave(n)
    source = labels.clone()
    if case == "two names":
        source[labels == 9] = 8
    elif case == "no signal":
        none = labels < 3
        source[none] = torch.randint(CLASSES, (int(none.sum()),), generator=generator)
    elif part == "held":
        wrong = labels == 3
        source[wrong] = (4 + torch.arange(int(wrong.sum())) % 9) % CLASSES
    points = centres[source] + torch.randn(len(labels), DIMENSIONS, generator=generator)
    return points, labels


def recalls(predicted: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    return np.array([(predicted[labels == c] == c).double().mean() for c in range(CLASSES)])


def train(case: str, policy: str, seed: int, epochs: int) -> dict[str, object]:
    torch.manual_seed(seed)
    points, labels = draw(case, "train", 400, seed)
    held, held_labels = draw(case, "held", 100, seed)
    test, test_labels = draw(case, "test", 500, seed)
    balancer = Balancer(labels, policy, seed=seed)
    model = nn.Sequential(nn.Linear(DIMENSIONS, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    share, named = 0.0, set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(epochs):
            quotas = balancer.sampler.quotas
            share = max(share, float(quotas[CASES[case]].max() / quotas.sum()))
            for index in torch.from_numpy(balancer.sampler.indices()).split(100):
                balancer.loss(model(points[index]), labels[index]).backward()
                optimizer.step()
                optimizer.zero_grad()
            schedule.step()
            with torch.no_grad():
                balancer.observe(model(held), held_labels)
            balancer.step()
        with torch.no_grad():
            balancer.fit_decision(model(held), held_labels)
            logits = model(test)
        said = " ".join(str(w.message) for w in caught)
        for found in re.findall(r"(?:of class|for the classes) ([\d, ]+)", said):
            named |= {int(c) for c in found.split(",") if c.strip()}
    good = [c for c in range(CLASSES) if c not in CASES[case]]
    trained, decided = (
        recalls(p, test_labels) for p in (logits.argmax(1), balancer.decide(logits))
    )
    return {
        "trained": trained.mean(),
        "decided": decided.mean(),
        "others": decided[good].mean(),
        "share": share,
        "named": named,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=25)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| case | policy | mean as trained | decided | sound classes | largest share | named |")
    print("|-|-|-|-|-|-|-|")
    for case in CASES:
        for policy in ("plain", "equal-recall", "fair"):
            runs = [train(case, policy, seed, args.epochs) for seed in range(args.seeds)]
            means = [
                np.mean([r[k] for r in runs]) for k in ("trained", "decided", "others", "share")
            ]
            named = sorted(set().union(*(r["named"] for r in runs)))
            figures = " | ".join(f"{m:.3f}" for m in means)
            print(f"| {case} | {policy} | {figures} | {', '.join(map(str, named))} |", flush=True)


if __name__ == "__main__":
    main()
