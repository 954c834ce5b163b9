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

COLUMNS = 24  # labels by which examples of several labels are told from one another
CHUNK = 4096  # positions whose plan is drawn at a time
LOOKED_AT = 1 << 20  # positions of an epoch that `check` compares; `position` follows all
SKIPPED = 8  # batches that a loop may leave out between two calls

# What is said, with the mend; docs/is-it-wired-right.md has more.
PAGE = "See docs/is-it-wired-right.md."
OTHER_EPOCH = (
    "The sampler was sent to another epoch than the balancer's, by a set_epoch that is not its "
    "step(). Give Fabric and accelerate GlobalOrder(balancer)."
)
NOT_ASKED = (
    "The examples were not drawn by balancer.sampler, which nobody asked for any. Use "
    "DataLoader(data, sampler=balancer.sampler), without shuffle=True."
)
WITHIN_AN_EPOCH = (
    "step() was called within an epoch, and the loader went on with the order from before. Make "
    "epochs shorter by num_samples, or iterate the loader anew."
)
SPLIT_TWICE = (
    "Only a part of what balancer.sampler drew has come: a DistributedSampler, accelerate or "
    "Fabric has split it over the ranks a second time. Give them GlobalOrder(balancer), or leave "
    "the loader as it is."
)
OTHER_ORDER = (
    "The classes that came are not in the order in which balancer.sampler drew them. Give Balancer "
    "the labels in the order of the data set, and let nothing reorder the sampler."
)
OTHER_CLASSES = (
    "The classes that came are not those that balancer.sampler drew. Give Balancer the labels of "
    "the very data set of the loader (of a Subset, labels[indices])."
)
AGAIN = (
    "The loader is iterated again before step(): the same examples come in the same order. Call "
    "balancer.step() after each pass, whatever the policy."
)
SKIPPED_TWICE = (
    "The batches before the state that was loaded were skipped twice, by the balancer and by the "
    "loader. Load only one of the two, or give StatefulDataLoader "
    "batch_sampler=balancer.sampler.batches(size)."
)


class WarnOnce:
    """Warns with each message once, whatever its detail."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: str, detail: str = "") -> None:
        if message not in self._said:
            self._said.add(message)
            warnings.warn(f"{message} {detail}".rstrip(), stacklevel=4)


class BatchSums:
    """Σ code and Σ code · weight of a batch, with random codes of classes and weights of places.

    The first sum tells which classes a batch has, the second in which order. They are computed on
    the batch's device, in 64-bit whole numbers that wrap around, so that they are the same
    everywhere; nothing waits for the device. Of several labels, those carried by closest to half
    of the examples are looked at.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self._columns = np.zeros(0, np.int64)
        kinds = targets.num_classes + 2  # one more on each side for ids that are no class
        if targets.multilabel:
            off = np.abs(targets.counts / targets.num_examples - 0.5)
            self._columns = np.argsort(off, kind="stable")[:COLUMNS]
            kinds = len(self._columns)
        self._code = np.random.default_rng(0).integers(1, 2**62, kinds)
        self._weight = np.ones((2, 0), np.int64)
        self._on: dict[torch.device, tuple[Tensor, ...]] = {}
        self._code_of: np.ndarray | None = None  # every example's, for several labels

    def can_tell(self, targets: Tensor) -> bool:
        """Whether a batch can be known again by its targets: not that of a stream, nor pixels."""
        known = self.targets.indexed and not self.targets.elements
        return known and (self.targets.multilabel or targets.ndim == 1)

    def __call__(self, targets: Tensor) -> Tensor:
        """`(2,)` int64, on the device of targets `(B,)` or `(B, C)`; they are counted, too."""
        size = len(targets)
        self._fit(size)
        if targets.device not in self._on:
            tables = self._code, self._weight, self._columns, np.zeros_like(self._code)
            self._on[targets.device] = tuple(
                torch.from_numpy(each).to(targets.device) for each in tables
            )
        code, weight, columns, counts = self._on[targets.device]
        if self.targets.multilabel:
            some = targets.index_select(1, columns)
            carried = (some > 0.5) & (some <= 1)  # neither unknown
            codes = (carried * code).sum(1)
            counts += carried.sum(0)
        else:
            ids = (targets.long() + 1).clamp_(0, len(code) - 1)
            codes = code[ids]
            counts.index_add_(0, ids, weight[0, :1].expand(size))
        return (codes * weight[:, :size]).sum(1)

    def _fit(self, size: int) -> None:
        """Have weights for batches of that size."""
        if size > self._weight.shape[1]:
            weight = np.random.default_rng(1).integers(1, 2**62, 2 * size)
            self._weight = np.stack([np.ones_like(weight), weight])
            for device, (code, _, columns, counts) in self._on.items():
                on = torch.from_numpy(self._weight).to(device)
                self._on[device] = (code, on, columns, counts)

    def codes(self, ids: Any) -> np.ndarray:
        """`(n,)` int64: codes of the examples with those ids."""
        if self.targets.labels is not None:
            return self._code[self.targets.labels[ids].astype(np.int64) + 1]
        if self._code_of is None:
            matrix: Any = self.targets.matrix
            self._code_of = (matrix[:, self._columns] > 0).astype(np.int64) @ self._code
        return self._code_of[ids]

    def planned(self, codes: np.ndarray) -> tuple[int, int]:
        """What a batch of these codes has to give."""
        self._fit(len(codes))
        return int(codes.sum()), int((codes * self._weight[1, : len(codes)]).sum())

    def clear(self) -> None:
        """Forget which classes came."""
        for *_, counts in self._on.values():
            counts.zero_()

    def agree(self, ids: np.ndarray) -> bool:
        """Whether the classes came in the proportions of these examples, as chance allows."""
        came = np.sum([counts.cpu().numpy() for *_, counts in self._on.values()], axis=0)
        if self.targets.labels is not None:
            drawn = np.bincount(self.targets.labels[ids], minlength=self.targets.num_classes)
            drawn = np.pad(drawn, 1)
        else:
            matrix: Any = self.targets.matrix
            drawn = np.asarray(matrix[ids][:, self._columns].sum(0)).reshape(-1)
        apart = np.abs(came / max(came.sum(), 1) - drawn / max(drawn.sum(), 1)).sum()
        chance = np.sqrt(len(came) / max(min(came.sum(), drawn.sum()), 1))
        return bool(apart < 0.02 + chance)


class Ledger:
    """Compares the classes of the batches that came with those that the sampler planned.

    Of each batch `BatchSums` keeps two numbers on its device, and nothing waits for them until
    somebody asks for `position`, or `check` is called at the end of the epoch. Then they are
    compared with those of the sampler's order, batch by batch:

    * the classes planned next: the batch is new, and the position moves on behind it;
    * those of the batch before, in any order: the same batch again, as mixup, SAM, several heads
      and closures of an optimiser give it, and the position stays;
    * those at the start of the epoch: the loader was iterated anew;
    * those of a batch a little further on: the loop has left some out;
    * others: the batch counts as new, and as one that was not planned.

    Examples that carry elements, such as images of pixels, count as new whenever they come: what
    they carry changes when they are cropped or scaled.

    Where two of these hold at once, as they may for batches of a few examples, the batch before
    tells how often one is given; and after a few batches the position is right again.

    Attributes:
        counts: whether anything ever came, in this process or the one whose state it is.
        came: examples that came in this epoch to all ranks, repeated ones included.
    """

    def __init__(self, sampler: OrderSampler, targets: Targets, warn: WarnOnce) -> None:
        self.sampler, self.warn = sampler, warn
        self.counts = self._cut = self._told = self._mixed = False
        self._summed = BatchSums(targets)
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
        self._summed.clear()

    # What comes

    def add(self, targets: Tensor, mixed: bool = False) -> None:
        """Note a batch, unless gradients are switched off: then nothing is trained.

        Targets that are `mixed` of several examples' classes are judged by how often each comes.
        """
        if not torch.is_grad_enabled():
            return
        step = len(targets) * self.sampler.num_replicas
        known = self._summed.can_tell(targets)
        if known:
            self._sums.append(self._summed(targets))
            self._sizes.append(len(targets))
        self.counts, self._mixed = True, self._mixed or mixed
        self.came += step
        if not known:  # elements change when images are cropped, and a stream's order is its own
            self._at += step
            return
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
        which = 1 if self._mixed else 0  # mixed classes are known again by their order alone
        again = self._before is not None and (total, ordered)[which] == self._before[which]
        start = self._at
        if ordered in orders and not (again and self._calls < self._usual):
            self._in_order = True
        elif not self._in_order and total in totals:
            pass
        elif self._before and (
            (again and self._in_order) or ordered in self._plan(self._last, size)[1]
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
            which, value = (1, ordered) if self._in_order or self._mixed else (0, total)
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
        totals, orders = zip(*map(self._summed.planned, parts), strict=True)
        return totals, orders

    def _chunk(self, number: int) -> np.ndarray:
        if number not in self._chunks:
            if len(self._chunks) >= 64:
                self._chunks.clear()
            first = number * CHUNK
            positions = np.arange(first, min(first + CHUNK, self.sampler.num_samples))
            self._chunks[number] = self._summed.codes(self.sampler.draw(positions))
        return self._chunks[number]

    # Whether it is wired right

    def check(self, epoch: int) -> None:
        """Say what the epoch that ends shows to be wired wrong; see docs/is-it-wired-right.md."""
        total = self.sampler.num_samples
        self._resolve(LOOKED_AT if self.came <= total else None)
        if self.sampler.epoch != epoch:
            self.warn(f"{OTHER_EPOCH} {PAGE}")
        enough = self._judged > 1 and 4 * self.came >= total
        if self._told or not enough or 2 * self._planned >= self._judged:
            return
        same = self._summed.agree(self.sampler.draw(np.arange(min(total, LOOKED_AT))))
        if same and self._mixed:
            return
        self._told = True
        part = 4 * self.came <= 3 * total <= 3 * self.sampler.position
        if not self.sampler.handed_out:
            cause = WITHIN_AN_EPOCH if self._cut else NOT_ASKED
        elif part or (same and self.sampler.num_replicas > 1):
            cause = SPLIT_TWICE
        else:
            cause = OTHER_ORDER if same else OTHER_CLASSES
        self.warn(f"{cause} {PAGE}")

    def _check_rounds(self) -> None:
        """Called when as much has come as an epoch holds: whether it began again."""
        self._resolve()
        if self._rounds:
            self.warn(f"{AGAIN} {PAGE}")
        left = self.sampler.num_samples - self._at
        self._look_at = self.came + max(left, self.sampler.num_samples // 8, 1)

    def _check_resumed(self) -> None:
        """Called with the first batch after a state was loaded: whether it was skipped twice."""
        resumed, size = self._resumed, self._sizes[-1]
        self._resumed = 0
        ordered = int(self._sums[-1][1])
        _, doubled = self._plan(2 * resumed, size)
        if ordered in doubled and ordered not in self._plan(resumed, size)[1]:
            self.warn(f"{SKIPPED_TWICE} {PAGE}")
