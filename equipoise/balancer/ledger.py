"""Ledger: what was drawn, what came to the loss, and where in the epoch the training is."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.samplers import OrderSampler
from equipoise.targets import Targets

__all__ = ["Ledger", "WarnOnce"]

CHUNK = 4096  # positions whose plan is drawn at a time
LOOKED_AT = 1 << 20  # positions of an epoch that `check` compares; `position` follows all
SKIPPED = 8  # batches that a loop may leave out between two calls
COLUMNS = 24  # labels by which examples of several labels are told from one another
PAGE = "See docs/is-it-wired-right.md."


class WarnOnce:
    """Warns with each message once, whatever its detail."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: str, detail: str = "") -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(f"{message} {detail}".rstrip(), stacklevel=4)


class Ledger:
    """Compares the classes of the batches that came with those that the sampler planned.

    Of each batch two sums are kept on its device, with random 64-bit codes for the classes and
    random weights for the places in the batch: Σ code and Σ code · weight. The first tells which
    classes came, the second in which order. Nothing waits for the device until somebody asks for
    `position`, or `check` is called at the end of the epoch. Then the sums are compared with those
    of the sampler's order, batch by batch:

    * the classes planned next: the batch is new, and the position moves on behind it;
    * those of the batch before, in any order: the same batch again, as mixup, SAM, several heads
      and closures of an optimiser give it, and the position stays;
    * those at the start of the epoch: the loader was iterated anew;
    * those of a batch a little further on: the loop has left some out;
    * others: the batch counts as new, and as one that was not planned.

    Where two of these hold at once, as they may for batches of a few examples, the batch before
    tells how often one is given; and after a few batches the position is right again.

    Args:
        sampler: whose order.
        targets: labels of its examples.
        warn: says what is wired wrong.

    Attributes:
        counts: whether anything ever came, in this process or the one whose state it is.
        came: examples that came in this epoch to all ranks, repeated ones included.
    """

    def __init__(self, sampler: OrderSampler, targets: Targets, warn: WarnOnce) -> None:
        self.sampler, self.targets, self.warn = sampler, targets, warn
        self.counts = self._cut = self._told = False
        rng = np.random.default_rng(0)
        self._columns: np.ndarray | None = None
        kinds = targets.num_classes + 2  # one more on each side for ids that are no class
        if targets.multilabel:
            rare = np.abs(targets.counts / targets.num_examples - 0.5)
            self._columns = np.argsort(rare, kind="stable")[:COLUMNS]
            kinds = len(self._columns)
        self._code = rng.integers(1, 2**62, kinds)
        self._weight = np.ones((2, 0), np.int64)
        self._devices: dict[torch.device, tuple[Tensor, ...]] = {}
        self._code_of: np.ndarray | None = None
        self._usual = 1
        self._begin(0)

    def _begin(self, position: int) -> None:
        self._at = self._last = position  # behind the newest batch; at its start
        self._before: tuple[int, int] | None = None  # the sums of the newest batch
        self._calls = self._usual  # for it, and for the one before
        self._in_order = True  # whether its examples stood as they were drawn
        self._sums: list[Tensor] = []
        self._sizes: list[int] = []
        self._chunks: dict[int, np.ndarray] = {}
        self._judged = self._planned = self._rounds = self.came = 0
        self._look_at = self.sampler.num_samples - position
        self._resumed = 0
        for *_, seen in self._devices.values():
            seen.zero_()

    # What comes

    def add(self, targets: Tensor) -> None:
        """Note a batch, unless gradients are switched off: then nothing is trained."""
        if not torch.is_grad_enabled():
            return
        size = len(targets)
        code, weight, columns, seen = self._on(targets.device, size)
        if self._columns is None:
            ids = (targets.long() + 1).clamp_(0, len(code) - 1)
            codes = code[ids]
            seen.index_add_(0, ids, weight[0, :1].expand(len(ids)))
        else:
            carried = targets.index_select(1, columns) > 0.5
            codes = (carried * code).sum(1)
            seen += carried.sum(0)
        self._sums.append((codes * weight[:, :size]).sum(1))
        self._sizes.append(size)
        self.counts = True
        self.came += size * self.sampler.num_replicas
        if len(self._sums) % 1024 == 0:  # many small tensors are a burden
            self._sums[-1024:] = torch.stack(self._sums[-1024:]).unbind()
        if self._resumed:
            self._check_resumed()
        if self.came > self._look_at:
            self._check_rounds()

    def over(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of a loader, each noted when it comes."""
        for batch in loader:
            self.add(torch.as_tensor(batch[1]))
            yield batch

    def _on(self, device: torch.device, size: int) -> tuple[Tensor, ...]:
        """Codes, weights, columns and class counts on a device, for batches of up to that size."""
        if size > self._weight.shape[1]:
            rng = np.random.default_rng(1)
            self._weight = np.ones((2, 2 * size), np.int64)
            self._weight[1] = rng.integers(1, 2**62, 2 * size)
            self._devices = {
                on: (code, torch.from_numpy(self._weight).to(on), columns, seen)
                for on, (code, _, columns, seen) in self._devices.items()
            }
        if device not in self._devices:
            columns = np.zeros(0, np.int64) if self._columns is None else self._columns
            tables = [self._code, self._weight, columns, np.zeros(len(self._code), np.int64)]
            self._devices[device] = tuple(torch.from_numpy(t).to(device) for t in tables)
        return self._devices[device]

    # Where we are

    @property
    def position(self) -> int:
        """The global position in the epoch where a resumed run goes on."""
        if not self.counts:
            return int(self.sampler.position)
        self._resolve()
        return min(self._at, self.sampler.num_samples)

    def go_to(self, epoch: int, position: int) -> None:
        """Let the sampler's next iteration begin there."""
        whole = 0.9 * self.sampler.num_samples
        self._cut = epoch > self.sampler.epoch and 0 < self.came < whole
        self.sampler.set_epoch(epoch, position=position)
        self._begin(position)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "counts": self.counts, "usual": self._usual}

    def load_state_dict(self, state: dict[str, Any], epoch: int) -> None:
        """Go on in that epoch where `state_dict` was taken."""
        self.go_to(epoch, state["position"])
        self.counts, self._usual = state["counts"], state["usual"]
        self._cut, self._resumed = False, state["position"]

    def _complete(self) -> bool:
        """Whether the next batch, as large as the last, would not fit the epoch."""
        return self._at + max(self._at - self._last, 1) > self.sampler.num_samples

    def _resolve(self, most: int | None = None) -> None:
        """Follow the batches noted, or those of the first `most` positions of them."""
        steps = np.array(self._sizes, np.int64) * self.sampler.num_replicas
        number = len(steps) if most is None else int(np.searchsorted(np.cumsum(steps), most)) + 1
        if not len(steps):
            return
        device = self._sums[-1].device
        sums = torch.stack([each.to(device) for each in self._sums[:number]]).tolist()
        for (total, ordered), size in zip(sums, self._sizes[:number], strict=True):
            self._follow(int(total), int(ordered), size)
        del self._sums[:number], self._sizes[:number]

    def _follow(self, total: int, ordered: int, size: int) -> None:
        step = size * self.sampler.num_replicas
        totals, orders = self._plan(self._at, size)
        again = self._before is not None and total == self._before[0]
        start = self._at
        if ordered in orders and not (again and self._calls < self._usual):
            self._in_order = True
        elif not self._in_order and total in totals:
            pass
        elif self._before and (
            again and self._in_order or ordered in self._plan(self._last, size)[1]
        ):
            self._calls += 1
            return
        elif ordered in self._plan(0, size)[1]:
            self._rounds += self._complete()
            start, self._in_order = 0, True
        elif again:
            self._calls += 1
            return
        elif total in totals:
            self._in_order = False
        else:
            ahead = (self._at + i * step for i in range(1, SKIPPED + 1))
            which, value = (1, ordered) if self._in_order else (0, total)
            found = next((p for p in ahead if value in self._plan(p, size)[which]), None)
            self._planned -= found is None
            start = self._at if found is None else found
        self._judged, self._planned = self._judged + 1, self._planned + 1
        self._usual, self._calls = self._calls, 1
        self._last, self._at, self._before = start, start + step, (total, ordered)

    def _plan(self, position: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Both sums of this rank's part of the global batch planned there, `size` on each rank.

        The part is every R-th example, as our samplers draw, or the r-th block, as accelerate
        deals out a `GlobalOrder`. Behind the end of the epoch there is no plan.
        """
        rank, num_replicas = self.sampler.rank, self.sampler.num_replicas
        last = position + size * num_replicas
        if last > self.sampler.num_samples:
            return (), ()
        chunks = [self._chunk(k) for k in range(position // CHUNK, (last - 1) // CHUNK + 1)]
        codes = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        codes = codes[position % CHUNK :][: last - position]
        parts = [codes[rank::num_replicas]]
        if num_replicas > 1:
            parts.append(codes[rank * size : (rank + 1) * size])
        self._weight_for(size)
        weight = self._weight[1, :size]
        return tuple(int(p.sum()) for p in parts), tuple(int((p * weight).sum()) for p in parts)

    def _weight_for(self, size: int) -> None:
        if size > self._weight.shape[1]:
            self._on(torch.device("cpu"), size)

    def _chunk(self, number: int) -> np.ndarray:
        if number not in self._chunks:
            if len(self._chunks) >= 64:
                self._chunks.clear()
            first = number * CHUNK
            positions = np.arange(first, min(first + CHUNK, self.sampler.num_samples))
            self._chunks[number] = self._codes(self.sampler.draw(positions))
        return self._chunks[number]

    def _codes(self, ids: np.ndarray) -> np.ndarray:
        """`(n,)` int64 codes of what examples carry."""
        if self.targets.labels is not None:
            return self._code[self.targets.labels[ids].astype(np.int64) + 1]
        if self._code_of is None:
            matrix: Any = self.targets.matrix
            self._code_of = (matrix[:, self._columns] > 0).astype(np.int64) @ self._code
        return self._code_of[ids]

    # Whether it is wired right

    def check(self, epoch: int) -> None:
        """Say what the epoch that ends shows to be wired wrong; see docs/is-it-wired-right.md."""
        self._resolve(LOOKED_AT if self.came <= self.sampler.num_samples else None)
        enough = self._judged > 1 and 4 * self.came >= self.sampler.num_samples
        wrong = enough and 2 * self._planned < self._judged and not self._told
        if self.sampler.epoch != epoch:
            found = (
                "The sampler was sent to another epoch than the balancer's, by a set_epoch that "
                "is not its step(). Give Fabric and accelerate GlobalOrder(balancer)"
            )
        elif not wrong:
            return
        elif self._cut and not self.sampler.handed_out:
            found = (
                "step() was called within an epoch, and the loader went on with the order from "
                "before. Make epochs shorter by num_samples, or iterate the loader anew"
            )
        elif not self.sampler.handed_out:
            found = (
                "The examples were not drawn by balancer.sampler, which nobody asked for any. Use "
                "DataLoader(data, sampler=balancer.sampler), without shuffle=True"
            )
        elif 4 * self.came <= 3 * self.sampler.num_samples <= 3 * self.sampler.position or (
            self.sampler.num_replicas > 1 and self._same_classes()
        ):
            found = (
                "Only a part of what balancer.sampler drew has come: a DistributedSampler, "
                "accelerate or Fabric has split it over the ranks a second time. Give them "
                "GlobalOrder(balancer), or leave the loader as it is"
            )
        elif self._same_classes():
            found = (
                "The classes that came are not in the order in which balancer.sampler drew them. "
                "Give Balancer the labels in the order of the data set, and let nothing reorder "
                "the sampler"
            )
        else:
            found = (
                "The classes that came are not those that balancer.sampler drew. Give Balancer the "
                "labels of the very data set of the loader (of a Subset, labels[indices])"
            )
        self._told = True
        self.warn(f"{found}. {PAGE}")

    def _same_classes(self) -> bool:
        """Whether the classes came in the proportions drawn, as far as chance allows."""
        seen = sum(seen.cpu().numpy() for *_, seen in self._devices.values())
        drawn = self.sampler.draw(np.arange(min(self.sampler.num_samples, LOOKED_AT)))
        if self.targets.labels is not None:
            planned = np.bincount(self.targets.labels[drawn], minlength=self.targets.num_classes)
            planned = np.concatenate([[0], planned, [0]])
        else:
            matrix: Any = self.targets.matrix
            planned = np.asarray(matrix[drawn][:, self._columns].sum(0)).reshape(-1)
        p, q = seen / max(seen.sum(), 1), planned / max(planned.sum(), 1)
        chance = (len(p) / max(min(int(seen.sum()), len(drawn)), 1)) ** 0.5
        return float(np.abs(p - q).sum()) < 0.02 + chance

    def _check_rounds(self) -> None:
        """Called when as much has come as an epoch holds: whether it began again."""
        self._resolve()
        if self._rounds:
            self.warn(
                "The loader is iterated again before step(): the same examples come in the same "
                f"order. Call balancer.step() after each pass, whatever the policy. {PAGE}"
            )
        left = self.sampler.num_samples - self._at
        self._look_at = self.came + max(left, self.sampler.num_samples // 8, 1)

    def _check_resumed(self) -> None:
        """Called with the first batch after a state was loaded: whether it was skipped twice."""
        resumed, size = self._resumed, self._sizes[-1]
        self._resumed = 0
        ordered = int(self._sums[-1][1])
        _, doubled = self._plan(2 * resumed, size)
        if ordered in doubled and ordered not in self._plan(resumed, size)[1]:
            self.warn(
                "The batches before the state that was loaded were skipped twice, by the balancer "
                "and by the loader. Load only one of the two, or give StatefulDataLoader "
                f"batch_sampler=balancer.sampler.batches(size). {PAGE}"
            )
