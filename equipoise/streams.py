"""Streams: class shares that follow λ where there is no index, by thinning and repeating."""

from __future__ import annotations

import copy
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from equipoise._ranks import rank_and_replicas
from equipoise.samplers.permutation import key_of, keys_of

__all__ = ["BalancedStream", "MixedStream", "due_order", "make_stream"]

WORKERS = 1024  # whose passes and counts are kept apart
PASSES, READ, YIELDED, DISTINCT, MOST = range(5)


def due_order(
    before: np.ndarray, until: np.ndarray, shares: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """Which class comes next, and next: class c is due once while its progress grows by one.

    Its turn k is due where its progress passes k + u/4, with u in [0, 1) hashed from `keys[c]` and
    k. So the numbers of any window differ from the expected ones by one or two a class, and by
    nothing in the long run; and a quarter of a turn is what its place varies by.

    Args:
        before: `(C,)` progress at the start of the span.
        until: `(C,)` progress at its end.
        shares: `(C,)` progress a yielded example.
        keys: `(C,)` uint64.

    Example:
        >>> keys = keys_of(0, np.arange(2))
        >>> due_order(np.zeros(2), np.array([6.0, 2.0]), np.array([0.75, 0.25]), keys).tolist()
        [1, 0, 0, 0, 1, 0, 0]
    """
    first = np.floor(before).astype(np.int64)
    turns = np.floor(until).astype(np.int64) - first + 1
    classes = np.repeat(np.arange(len(turns)), turns)
    number = np.arange(len(classes)) - (np.cumsum(turns) - turns - first)[classes]
    hashed = keys_of(keys_of(keys[classes], number), number)
    progress = number + (hashed >> np.uint64(11)) * 2.0**-55
    due = (progress > before[classes]) & (progress <= until[classes])
    classes = classes[due]
    return classes[np.argsort((progress[due] - before[classes]) / shares[classes], kind="stable")]


def _checked(shares: Any) -> torch.Tensor:
    values = torch.as_tensor(shares, dtype=torch.float64)
    usable = values.isfinite().all() & (values >= 0).all() & (values.sum() > 0)
    if values.ndim != 1 or not usable:
        raise ValueError(f"Expected shares to be (C,), finite and not negative, but got {shares}.")
    return values


class _Source:
    """An iterable of examples, pass after pass, which a resumed stream goes on with.

    One with `state_dict` goes on by it; of another is read again what was read of the pass.
    """

    def __init__(self, examples: Iterable[Any]) -> None:
        self.examples: Any = examples
        self.ahead = 0  # read of this pass
        self._loaded: dict[str, Any] | None = None
        self._own = False  # whether this worker has examples of its own

    def open(self, epoch: int, resume: bool = False) -> None:
        """Begin a pass, or go on with the one that the loaded state was in."""
        if hasattr(self.examples, "set_epoch"):
            if get_worker_info() is not None and not self._own:
                # A Hugging Face stream shares its epoch with its copies in other workers
                self.examples, self._own = copy.deepcopy(self.examples), True
            self.examples.set_epoch(epoch)
        loaded, self._loaded = self._loaded if resume else None, None
        self.ahead = skip = self.ahead if resume else 0
        if loaded is not None and loaded["state"] is not None:
            self.examples.load_state_dict(loaded["state"])
            skip = 0
        self._iterator = iter(self.examples)
        next(islice(self._iterator, skip, skip), None)

    def read(self, count: int) -> list[Any]:
        """So many examples, or what is left of the pass."""
        examples = list(islice(self._iterator, count))
        self.ahead += len(examples)
        return examples

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes that are not forked: all but the running pass."""
        return {name: value for name, value in self.__dict__.items() if name != "_iterator"}

    def state_dict(self) -> dict[str, Any]:
        if self._loaded is not None:
            return self._loaded
        state = getattr(self.examples, "state_dict", lambda: None)()
        return {"ahead": self.ahead, "state": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loaded, self.ahead = state, state["ahead"]


class _ShareStream(IterableDataset[Any]):
    """What both streams have in common: whose turn it is, passes, counts and states."""

    def __init__(
        self,
        shares: Any,
        *,
        decode: Callable[[Any], Any] | None = None,
        repeat: bool = False,
        chunk_size: int = 256,
        seed: int = 0,
        rank: int | None = None,
        num_replicas: int | None = None,
    ) -> None:
        self.shares = _checked(shares).share_memory_()
        if chunk_size < 1:
            raise ValueError(f"Expected chunk_size to be at least 1, but got {chunk_size}.")
        self.decode, self.repeat, self.chunk_size, self.seed = decode, repeat, chunk_size, seed
        self.rank = rank_and_replicas(rank, num_replicas)[0]
        self._counts = torch.zeros(WORKERS, 5, dtype=torch.int64).share_memory_()
        self._worker, self._pass = -1, 0
        self._distinct = self._most = 0  # of `price`, since the last chunk
        self._progress: Any = np.empty(0)
        self._order: list[int] = []
        self._runs = False  # whether an iteration has begun and not ended
        self._goes_on = False  # whether the next one goes on with a loaded state

    def set_shares(self, shares: Any) -> None:
        """Ask for other shares, from the next chunk on, in worker processes that run too."""
        checked = _checked(shares)
        if checked.shape != self.shares.shape:
            raise ValueError(
                f"Expected shares of {len(self.shares)} classes, but got {len(checked)}."
            )
        self.shares.copy_(checked)

    @property
    def price(self) -> dict[str, float]:
        """What the shares cost so far, of all workers of this process together.

        `read`: source examples read for one yielded; `yields`: how often one that was yielded at
        all was; `most`: the highest number of times that one was.
        """
        read, yielded, distinct = self._counts[:, READ : DISTINCT + 1].sum(0).tolist()
        most = int(self._counts[:, MOST].max())
        return {"read": read / max(yielded, 1), "yields": yielded / max(distinct, 1), "most": most}

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        self._place(0 if info is None else info.id)
        if self._goes_on:
            self._open(resume=True)
        else:
            self._order, self._pass = [], max(int(self._row[PASSES]), self._pass) + 1
            self._open(resume=False)
        self._goes_on, self._runs, self._row[PASSES] = False, True, self._pass
        while self._order or self._plan():
            if not self._order:  # nothing was due in so short a span
                continue
            try:
                example = self._take(self._order.pop())
            except StopIteration:
                break
            yield example if self.decode is None else self.decode(example)
        self._note()
        self._runs = False

    def _place(self, worker: int) -> None:
        """Be this worker: keys and phases are its own."""
        self._row = self._counts[worker % WORKERS].numpy()
        if worker == self._worker:
            return
        self._worker, classes = worker, np.arange(len(self.shares))
        self._keys = keys_of(key_of(self.seed, self.rank, worker), classes)
        if not len(self._progress):
            self._progress = (keys_of(self._keys, classes) >> np.uint64(11)) * 2.0**-53

    def _arrange(self, shares: np.ndarray, span: int) -> None:
        """The next `span` examples' classes, more or less; notes the counts."""
        until = self._progress + span * shares
        classes = due_order(self._progress, until, shares, self._keys)
        self._progress = until
        self._order = classes[::-1].tolist()
        self._row[YIELDED] += len(classes)
        self._note()

    def _note(self) -> None:
        self._row[DISTINCT] += self._distinct
        self._row[MOST] = max(self._row[MOST], self._most)
        self._distinct = 0

    def _open(self, resume: bool) -> None:
        raise NotImplementedError

    def _plan(self) -> bool:
        """Decide on what is yielded next; `False` at the end."""
        raise NotImplementedError

    def _take(self, c: int) -> Any:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Where this stream stands, in its own worker; `StatefulDataLoader` asks for it."""
        return {
            "shares": self.shares.tolist(),
            "runs": self._runs,
            "pass": self._pass,
            "progress": self._progress.tolist(),
            "order": list(self._order),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the next iteration."""
        if len(state["shares"]) != len(self.shares):
            raise ValueError(
                f"Expected state of a stream of {len(self.shares)} classes, "
                f"but got one of {len(state['shares'])}."
            )
        self._pass, self._order = state["pass"], list(state["order"])
        self._progress = np.array(state["progress"])
        self._runs = self._goes_on = state["runs"]


class BalancedStream(_ShareStream):
    """Examples of a source in the class shares asked for: frequent thinned, rare repeated.

    The source is read in chunks, as many examples as are yielded. Of each class some undecoded
    examples are kept: new ones, which come first and in their order, and yielded ones, which are
    repeated in turn where no new one is left. Where more come than there is room for, chance
    decides which are kept; so all examples of a class are treated alike. An example that is kept
    comes at the latest after as many others of its class as are kept.

    A class takes part from its first example on: until then the others share its place. So the
    shares hold as soon as each class has been read once.

    In workers and ranks each is a stream of its own: the source has to give each its part, as
    WebDataset and `datasets` do by themselves.

    Args:
        source: an iterable of examples, iterated anew for each pass; `set_epoch` is called before,
            where it has one. One with `state_dict` is resumed by it, others by reading again what
            was read of the pass.
        label: of an example: its key or position, or a function. Only labels are read of all. Where
            an example has several class ids, it counts as the one of the highest asked share for
            the number that came so far, or with `relative` of the highest factor.
        shares: `(C,)`, in proportion to which classes are yielded; a float64 tensor is shared.
        relative: `shares` are factors on the shares that the source turns out to have, exp(λ).
        buffer: examples to be kept of each class. At most C · (`buffer` + 1) + 3 · `chunk_size`
            are.
        max_repeats: how often one example may be yielded. Where that is not enough, more is read.
        max_read: source examples that may be read for one yielded, at most; where that is not
            enough either, examples are repeated more often, and a warning says so.
        decode: what to make of an example that is yielded, such as an image of its bytes.
        repeat: go on with the next pass where one ends; otherwise an iteration is a pass.
        chunk_size: examples read at a time, by default 256. New shares act from the next chunk on.
        seed: of what is left out and of the order.
        rank, num_replicas: by default those of torch.distributed, (0, 1) where it is not used.

    Example:
        >>> source = [(i, int(i % 10 == 0)) for i in range(2000)]
        >>> stream = BalancedStream(source, label=1, shares=[0.5, 0.5])
        >>> labels = [label for _, label in stream]
        >>> len(labels), 990 < sum(labels) < 1010
        (2000, True)
        >>> round(stream.price["read"], 2), round(stream.price["yields"], 1)
        (1.0, 1.7)
    """

    def __init__(
        self,
        source: Iterable[Any],
        label: str | int | Callable[[Any], Any],
        shares: Any,
        *,
        relative: bool = False,
        buffer: int = 64,
        max_repeats: int | None = None,
        max_read: float = 4.0,
        **settings: Any,
    ) -> None:
        super().__init__(shares, **settings)
        bounds = {"buffer": buffer, "max_repeats": max_repeats, "max_read": max_read}
        for name, value in bounds.items():
            if value is not None and value < 1:
                raise ValueError(f"Expected {name} to be at least 1, but got {value}.")
        self._source, self.relative = _Source(source), relative
        self.label = label if callable(label) else itemgetter(label)
        self.buffer, self.max_repeats, self.max_read = buffer, max_repeats, max_read
        self._limit = 1 << 40 if max_repeats is None else max_repeats
        classes = len(self.shares)
        self._seen = np.zeros(classes, np.int64)
        self._new: list[deque[Any]] = [deque() for _ in range(classes)]
        self._used: list[deque[list[Any]]] = [deque() for _ in range(classes)]  # [example, yields]
        self._left = [0] * classes  # how often each class may be yielded from what is kept
        self._turn = [0] * classes
        self._spare = 0.0  # what may be read beyond what is yielded
        self._warned = False

    def _open(self, resume: bool) -> None:
        self._source.open(self._pass, resume)

    def _asked(self) -> np.ndarray:
        """Shares of the classes that have come, which add up to one."""
        shares = self.shares.numpy() * (self._seen if self.relative else self._seen > 0)
        return shares / (shares.sum() or 1.0)

    def _read(self) -> int:
        """Read a chunk into the buffers; how many examples it had."""
        examples = self._source.read(self.chunk_size)
        if not examples and self.repeat:
            if self._seen.any() and not self._asked().any():
                raise ValueError(
                    "Expected shares above 0 for a class that the source has, but got "
                    f"{self.shares.tolist()} for classes of which {self._seen.tolist()} came."
                )
            self._pass += 1
            self._row[PASSES] = self._pass
            self._open(resume=False)
            examples = self._source.read(self.chunk_size)
        if not examples and not self._source.ahead and (self.repeat or self._seen.any()):
            raise ValueError(
                "Expected source to be one that can be iterated again, but got a "
                f"{type(self._source.examples).__name__} that gave no example. Pass what makes an "
                "iterator, such as a list or an IterableDataset."
            )
        try:
            labels = self._filed(list(map(self.label, examples)))
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(
                "Expected label to give a class id of every example, but got "
                f"{type(error).__name__}: {error}. It may be a key, a position or a function, "
                "and what it gives a class id or several."
            ) from error
        classes = len(self.shares)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            bad = labels[(labels < 0) | (labels >= classes)][0]
            raise ValueError(
                f"Expected labels to be class ids from 0 to {classes - 1}, but got {bad}. Leave "
                "out examples without a label, and let label= be a function that gives ids."
            )
        self._seen += np.bincount(labels, minlength=classes)
        room = self.buffer + np.ceil(2 * self.chunk_size * self._asked()).astype(np.int64)
        for i in self._kept(labels, room).tolist():
            c = int(labels[i])
            new, used = self._new[c], self._used[c]
            new.append(examples[i])
            self._left[c] += self._limit
            if len(new) + len(used) > room[c] and used:
                self._left[c] -= max(self._limit - used.popleft()[1], 0)
                self._turn[c] = max(self._turn[c] - 1, 0)
        self._row[READ] += len(examples)
        return len(examples)

    def _filed(self, labels: list[Any]) -> np.ndarray:
        """The class each example counts as: of several, the one furthest from being met."""
        if labels and np.ndim(labels[0]):
            several = [[int(c) for c in each] for each in labels]
            came = Counter(c for each in several for c in each)
            pairs = zip(self.shares.tolist(), self._seen.tolist(), strict=True)
            wanted = {
                c: share if self.relative else share / (seen + came[c] or 1)
                for c, (share, seen) in enumerate(pairs)
            }
            labels = [max(each, key=wanted.__getitem__) for each in several]
        return np.fromiter(map(int, labels), np.int64, len(labels))

    def _kept(self, labels: np.ndarray, room: np.ndarray) -> np.ndarray:
        """Which examples of a chunk find room: where not all do, chance decides."""
        key = key_of(
            self.seed, self.rank, self._worker, self._pass, self._source.ahead - len(labels)
        )
        order = np.random.default_rng(key).permutation(len(labels))
        by_class = order[np.argsort(labels[order], kind="stable")]
        present, counts = np.unique(labels, return_counts=True)
        free = room[present] - [len(self._new[c]) for c in present.tolist()]
        rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.sort(by_class[rank < np.repeat(free, counts)])

    def _plan(self) -> bool:
        span = self._read()
        if not span:
            return False
        if self.max_repeats is not None and not self._read_on(span):
            return False
        self._arrange(self._asked(), span)
        return True

    def _read_on(self, span: int) -> bool:
        """Read on until no example has to be repeated too often; `False` at the source's end."""
        self._spare += (self.max_read - 1) * span
        while self._short(span):
            if self._spare < self.chunk_size:
                if not self._warned:
                    warnings.warn(
                        f"Reading {self.max_read:g} source examples for one yielded is not enough "
                        f"to yield none more than max_repeats={self.max_repeats} times: some are. "
                        "Raise one of them, or ask for smaller shares of rare classes.",
                        stacklevel=2,
                    )
                self._warned = True
                break
            more = self._read()
            self._spare -= more
            if not more:
                return False
        return True

    def _short(self, span: int) -> bool:
        """Whether a class has less left within the bound than is due."""
        shares = self._asked()
        due = np.floor(self._progress + span * shares + 1) - np.floor(self._progress)
        return bool((due * (shares > 0) > self._left).any())

    def _take(self, c: int) -> Any:
        new, used = self._new[c], self._used[c]
        if new:
            entry = [new.popleft(), 0]
            used.append(entry)
            self._distinct += 1
        else:
            size, at = len(used), self._turn[c]
            for ahead in range(1, size + 1):
                entry = used[(at + ahead) % size]
                if entry[1] < self._limit:
                    break
            else:
                ahead, entry = 1, used[(at + 1) % size]
            self._turn[c] = (at + ahead) % size
        if entry[1] < self._limit:
            self._left[c] -= 1
        entry[1] += 1
        if entry[1] > self._most:
            self._most = entry[1]
        return entry[0]

    def state_dict(self) -> dict[str, Any]:
        """Where this stream stands, in its own worker, with the examples that it keeps.

        `StatefulDataLoader` asks for it with every batch: where examples are large, make it do so
        less often by `snapshot_every_n_steps`.
        """
        return {
            **super().state_dict(),
            "source": self._source.state_dict(),
            "spare": self._spare,
            "seen": self._seen.tolist(),
            "new": [list(each) for each in self._new],
            "used": [[tuple(entry) for entry in each] for each in self._used],
            "left": list(self._left),
            "turn": list(self._turn),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._source.load_state_dict(state["source"])
        self._spare = state["spare"]
        self._seen = np.array(state["seen"], np.int64)
        self._new = [deque(each) for each in state["new"]]
        self._used = [deque(list(entry) for entry in each) for each in state["used"]]
        self._left, self._turn = list(state["left"]), list(state["turn"])


class MixedStream(_ShareStream):
    """Examples of several sources in the shares asked for, each with the number of its source.

    Nothing is left out and nothing repeated but whole passes: it ends with the first source that
    does, or with `repeat=True` begins that one again. It is resumed as `BalancedStream` is.

    Args:
        sources: iterables by their names; each gives a worker and a rank its part.
        shares: `(number of sources,)`; a float64 tensor is shared.
        decode, repeat, seed, rank, num_replicas: see `BalancedStream`; `decode` is given the pair
            of an example and the number of its source.

    Example:
        >>> mixed = MixedStream({"web": "abcdefghi", "books": "ABC"}, shares=[0.75, 0.25])
        >>> "".join(letter for letter, _ in mixed)
        'AabcdBefCghi'
    """

    def __init__(self, sources: Mapping[str, Iterable[Any]], shares: Any, **settings: Any) -> None:
        super().__init__(shares, **{"chunk_size": 64} | settings)
        if len(sources) != len(self.shares):
            raise ValueError(f"Expected shares of {len(sources)} sources, but got {shares}.")
        self._names = list(sources)
        self._sources = [_Source(source) for source in sources.values()]
        self._passes = [0] * len(self._sources)  # of each, in this iteration

    def _open(self, resume: bool) -> None:
        self._passes = self._passes if resume else [self._pass] * len(self._sources)
        for source, epoch in zip(self._sources, self._passes, strict=True):
            source.open(epoch, resume)

    def _plan(self) -> bool:
        shares = self.shares.numpy()
        self._arrange(shares / shares.sum(), self.chunk_size)
        self._row[READ] = self._row[YIELDED]
        return True

    def _take(self, c: int) -> Any:
        examples = self._sources[c].read(1)
        if not examples and self.repeat:
            self._passes[c] += 1
            self._sources[c].open(self._passes[c])
            examples = self._sources[c].read(1)
            if not examples:
                raise ValueError(
                    "Expected sources that can be iterated again, but got none from "
                    f"{self._names[c]!r}. Pass what makes an iterator, or leave repeat out."
                )
        if not examples:
            raise StopIteration
        self._distinct += 1
        return examples[0], c

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "sources": [source.state_dict() for source in self._sources],
            "passes": list(self._passes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._passes = list(state["passes"])
        for source, each in zip(self._sources, state["sources"], strict=True):
            source.load_state_dict(each)


def make_stream(
    source: Any, label: Any, shares: Any, names: list[str] | None, options: dict[str, Any]
) -> BalancedStream | MixedStream:
    """A `BalancedStream` of one source, or a `MixedStream` of a dict in the order of `names`."""
    if not isinstance(source, Mapping):
        if label is None:
            raise ValueError("Expected label to say where an example's class stands, but got None.")
        return BalancedStream(source, label, shares, **options)
    if label is not None:
        raise ValueError(f"Expected label=None for a dict of sources, but got {label!r}.")
    if names is not None:
        if source.keys() != set(names):
            raise ValueError(f"Expected a source for each of {names}, but got {list(source)}.")
        source = {name: source[name] for name in names}
    return MixedStream(source, shares, **options)
