"""Streams: the shares, what is left out and repeated, the bounds, workers, states, real shards."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from equipoise import Balancer, Targets, checkpoint
from equipoise.streams import BalancedStream, MixedStream
from tests.ranks.worlds import processes
from tests.test_balancer import observed

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # in torchdata
]


def long_tailed(n: int, classes: int, rarest: float, seed: int = 0) -> list[tuple[int, int]]:
    """Pairs of an example's number and its class, on a geometric scale of shares."""
    shares = rarest ** (np.arange(classes) / (classes - 1))
    labels = np.random.default_rng(seed).choice(classes, n, p=shares / shares.sum())
    return list(enumerate(labels.tolist()))


def apart(labels: list[int], shares: np.ndarray) -> float:
    """Total variation between the labels' shares and those asked for."""
    counts = np.bincount(labels, minlength=len(shares))
    return 0.5 * float(np.abs(counts / len(labels) - shares / shares.sum()).sum())


@pytest.mark.parametrize("asked", ["flat", "steep"])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_any_window_has_the_shares_asked_for(classes: int, asked: str):
    source = long_tailed(20_000, classes, rarest=0.05)
    shares = np.ones(classes) if asked == "flat" else np.arange(1.0, classes + 1)
    labels = [c for _, c in BalancedStream(source, 1, shares)]
    assert abs(len(labels) - len(source)) <= 2 * classes
    window = 20 * classes
    for first in range(5000, len(labels) - window, window // 3):
        counts = np.bincount(labels[first : first + window], minlength=classes)
        assert np.abs(counts - window * shares / shares.sum()).max() < 2


def test_relative_shares_follow_what_the_source_has():
    source = long_tailed(20_000, 5, rarest=0.05)
    natural = np.bincount([c for _, c in source], minlength=5) / len(source)
    factors = np.array([1.0, 1.0, 2.0, 1.0, 8.0])
    labels = [c for _, c in BalancedStream(source, 1, factors, relative=True)]
    assert apart(labels[2000:], natural * factors) < 0.01
    kept = [i for i, _ in BalancedStream(source, 1, np.ones(5), relative=True)]
    assert len(set(kept)) > 0.97 * len(source)  # little is left out where nothing is asked for


def test_all_examples_of_a_class_are_treated_alike():
    """Where thinned, by chance: the earlier and the later, and places within a chunk, as often."""
    source = [(i, int(i % 4 == 0)) for i in range(40_000)]
    counts = Counter(i for i, _ in BalancedStream(source, 1, [0.3, 0.7]))
    frequent = np.array([counts[i] for i in range(40_000) if i % 4])
    rare = np.array([counts[i] for i in range(0, 40_000, 4)])
    assert frequent.max() == 1
    assert frequent.mean() == pytest.approx(0.3 / 0.75, abs=0.01)
    assert rare.mean() == pytest.approx(0.7 / 0.25, abs=0.02)
    inside = frequent[576:-576]  # but for the start and the end, where buffers fill and are left
    for by_place in (inside[: 192 * 148].reshape(-1, 192), inside[:28800].reshape(-1, 96)):
        p, n = inside.mean(), len(by_place)
        off = (by_place.mean(0) - p) / np.sqrt(p * (1 - p) / n)
        assert np.abs(off).max() < 4.7  # of 192 standard normal ones: once in 2,000 trials
    thirds = [part.mean() for part in np.array_split(rare[100:-100], 3)]
    assert thirds == pytest.approx([rare.mean()] * 3, rel=0.02)
    assert rare[100:-100].std() < 1.0  # in turn, not by chance


def test_memory_and_delay_are_bounded():
    source = long_tailed(20_000, 10, rarest=0.02)
    stream = BalancedStream(source, 1, np.ones(10), buffer=16, chunk_size=64)
    last = {}
    for n, (i, c) in enumerate(stream):
        if n % 50 == 0:
            kept = sum(map(len, stream.state_dict()["new"] + stream.state_dict()["used"]))
            assert kept <= 10 * 16 + 2 * 64 + 10
        last.setdefault(c, []).append(i)
    for numbers in last.values():
        first = list(dict.fromkeys(numbers))
        assert first == sorted(first)  # new ones come in their order
        assert all(a != b for a, b in zip(numbers[-50:], numbers[-49:], strict=False))


def test_more_is_read_where_repeats_are_bounded():
    source = [(i, int(i % 100 == 0)) for i in range(60_000)]
    stream = BalancedStream(source, 1, [0.5, 0.5], max_repeats=10, max_read=10)
    drawn = list(stream)
    counts = Counter(i for i, _ in drawn)
    assert max(counts.values()) <= 10
    assert stream.price == {
        "read": pytest.approx(5.0, rel=0.05),
        "yields": len(drawn) / len(counts),
        "most": 10,
    }
    assert apart([c for _, c in drawn], np.ones(2)) < 0.01
    scarce = BalancedStream(source, 1, [0.5, 0.5], max_repeats=10, max_read=2)
    with pytest.warns(UserWarning, match="Reading 2 source examples .* max_repeats=10 times"):
        drawn = list(scarce)
    assert scarce.price["read"] == pytest.approx(2.0, rel=0.05)
    assert apart([c for _, c in drawn], np.ones(2)) < 0.01


def test_only_what_is_yielded_is_decoded_and_labels_are_read_by_key_position_or_function():
    source = [{"x": b"%d" % i, "cls": b"%d" % (i % 3 == 0)} for i in range(3000)]
    decoded = []

    def decode(example):
        decoded.append(example)
        return int(example["x"])

    stream = BalancedStream(source, "cls", [0.1, 0.9], decode=decode)
    drawn = list(stream)
    assert len(decoded) == len(drawn)
    assert len(set(drawn)) < 1500
    by_function = BalancedStream(source, lambda e: int(e["x"]) % 3 == 0, [0.1, 0.9])
    assert [int(e["x"]) for e in by_function] == drawn


def test_passes_go_on_and_differ_and_the_seed_decides():
    source = long_tailed(600, 3, rarest=0.1)

    def first(n: int, **settings) -> list[int]:
        stream = BalancedStream(source, 1, np.ones(3), repeat=True, chunk_size=32, **settings)
        return [i for i, _ in islice(stream, n)]

    drawn = first(1800)
    torch.manual_seed(5)
    assert first(1800) == drawn
    assert first(1800, seed=1) != drawn
    assert first(1800, rank=1, num_replicas=2) != drawn
    assert len(set(drawn)) > 1.3 * len(set(drawn[:600]))  # what one pass leaves out another takes
    once = BalancedStream(source, 1, np.ones(3), chunk_size=32)
    assert list(once) != list(once)
    next(iter(once))
    assert pickle.loads(pickle.dumps(once)).price == once.price  # as for workers not forked


@pytest.mark.parametrize(
    ("source", "shares", "chunk_size"),
    [
        ([], [1, 1], 256),
        ([(0, 0)], [1, 1], 256),
        ([(0, 1)] * 3, [1, 1], 256),
        ([(i, i % 2) for i in range(4000)], [1, 1, 2], 256),  # a class that does not come
        *(([(i, i % 50) for i in range(501)], [1] * 50, chunk_size) for chunk_size in (1, 3, 50)),
    ],
)
def test_as_many_come_as_are_read_and_classes_that_do_not_leave_their_place(
    source, shares, chunk_size
):
    labels = [c for _, c in BalancedStream(source, 1, shares, chunk_size=chunk_size)]
    assert abs(len(labels) - len(source)) < 5
    if len(source) > 1000:
        assert apart(labels, np.array([1, 1, 0])) < 0.01


LOADED = BalancedStream([], 0, [1, 1, 1]).state_dict()
BALANCER = Balancer(Targets.from_class_counts([8, 2], names=["a", "b"]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *(
            (lambda s, shares=shares: s.set_shares(shares), "shares")
            for shares in ([1.0, -1.0], [1.0, float("nan")], [0.0, 0.0], [1.0, 2.0, 3.0])
        ),
        *(
            (lambda s, row=row, label=label: list(BalancedStream([row], label, [1, 1])), "label to")
            for row, label in (((float("nan"),), 0), (("x",), 0), ((3,), "cls"), ((3,), 5))
        ),
        *(
            (lambda s, ids=ids: list(BalancedStream([[[0]], [ids]], 0, [1, 1])), "label to give")
            for ids in ([0, 2], [], [-1])
        ),
        (lambda s: BalancedStream([], 0, [-1.0, 2.0]), "shares to be"),
        (lambda s: BalancedStream([], 0, [1, 1], buffer=0), "buffer to be at least 1, but got 0"),
        (lambda s: list(BalancedStream([7], abs, [1, 1])), ".* class ids from 0 to 1, but got 7"),
        (lambda s: MixedStream({"a": []}, [1, 1]), "shares of 1 sources"),
        (lambda s: s.load_state_dict(LOADED), "state of a stream of 2 classes, but got one of 3"),
        (lambda s: list(MixedStream({"a": [1], "b": []}, [1, 1], repeat=True)), ".* none from 'b'"),
        (lambda s: BALANCER.stream({"a": []}), "a source for each of"),
        (lambda s: BALANCER.stream([(0, 1)]), "label to say"),
        (lambda s: Balancer([0, 1]).stream([(0, 1)], label=1), ".*class counts"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=f"Expected {words}"):
        call(BalancedStream([], 0, [1, 1]))


@pytest.mark.parametrize("repeat", [False, True])
def test_what_cannot_go_on_says_so_and_does_not_hang(repeat):
    once = BalancedStream(iter([(i, i % 2) for i in range(100)]), 1, [1, 1], repeat=repeat)
    assert len(list(islice(once, 100))) == 100
    with pytest.raises(ValueError, match="iterated again, but got a list_iterator"):
        list(once)
    with pytest.raises(ValueError, match="shares above 0 for a class that the source has"):
        list(BalancedStream([(0, 1)] * 10, 1, [1, 0], repeat=True))
    assert list(BalancedStream([(0, 1)] * 10, 1, [1, 0])) == []


class Endless(torch.utils.data.IterableDataset):
    """Class 0 and 1 in turn, numbered; each worker has its own."""

    def __iter__(self):
        yield from ((i, i % 2) for i in range(200_000))


def test_new_shares_reach_workers_that_run():
    stream = BalancedStream(Endless(), 1, [1, 1], chunk_size=64)
    loader = DataLoader(stream, 50, num_workers=2, prefetch_factor=1, persistent_workers=True)
    batches = iter(loader)
    before = np.mean([next(batches)[1].float().mean() for _ in range(20)])
    stream.set_shares([1, 9])
    [next(batches) for _ in range(8)]  # prefetched ones and a chunk
    after = np.mean([next(batches)[1].float().mean() for _ in range(20)])
    assert before == pytest.approx(0.5, abs=0.02)
    assert after == pytest.approx(0.9, abs=0.02)
    assert stream.price["read"] == pytest.approx(1.0, abs=0.1)
    del batches


def test_passes_differ_in_workers_made_anew():
    source = long_tailed(600, 3, rarest=0.1)
    loader = DataLoader(BalancedStream(source, 1, np.ones(3)), 32, num_workers=1)
    passes = [torch.cat([i for i, _ in loader]).tolist() for _ in range(2)]
    assert passes[0] != passes[1]


@pytest.mark.parametrize("at", [0, 1, 100, 700, 1399])
@pytest.mark.parametrize("kind", ["balanced", "bounded", "mixed"])
def test_a_state_goes_on_exactly(kind: str, at: int):
    source = long_tailed(700, 3, rarest=0.1)

    def made():
        if kind == "mixed":
            return MixedStream({"a": source, "b": source[::5]}, [3, 1], repeat=True)
        bound = {"max_repeats": 3} if kind == "bounded" else {}
        return BalancedStream(source, 1, np.ones(3), repeat=True, chunk_size=50, **bound)

    stream = made()
    drawn = iter(stream)
    list(islice(drawn, at))
    state = json.loads(json.dumps(stream.state_dict()))  # plain values
    again = made()
    again.load_state_dict(state)
    assert again.state_dict()["order"] == state["order"]
    assert json.dumps(list(islice(again, 500))) == json.dumps(list(islice(drawn, 500)))


def test_sources_are_mixed_by_their_shares():
    a, b = range(9000), range(9000)
    drawn = list(MixedStream({"a": a, "b": b}, [0.9, 0.1]))
    assert abs(len(drawn) - 10_000) < 5
    sources = [s for _, s in drawn]
    assert all(abs(sum(sources[i : i + 1000]) - 100) <= 1 for i in range(0, 9000, 370))
    assert [i for i, s in drawn if s == 1] == list(range(sum(sources)))
    repeated = MixedStream({"a": [0], "b": [1]}, [0.5, 0.5], repeat=True)
    assert sum(s for _, s in islice(repeated, 100)) in (49, 50, 51)


class Shuffled:
    """Another order in each epoch, and a state, as Hugging Face streams have them."""

    def __init__(self, number: int) -> None:
        self.number, self.epoch, self.at, self.read = number, 0, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.number, self.epoch)).permutation(self.number)
        for i in order[self.at :].tolist():
            self.at, self.read = self.at + 1, self.read + 1
            yield i, self.epoch
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_mixed_sources_go_on_at_their_places_without_reading_again():
    def made() -> tuple[MixedStream, list[Shuffled]]:
        sources = [Shuffled(30), Shuffled(70)]
        return MixedStream(dict(zip("ab", sources, strict=True)), [2, 1], repeat=True), sources

    whole = list(islice(made()[0], 400))
    assert {epoch for (_, epoch), c in whole if c == 0} > {epoch for (_, epoch), c in whole if c}
    stream, _ = made()
    running = iter(stream)
    before = list(islice(running, 200))
    state = pickle.loads(pickle.dumps(stream.state_dict()))
    resumed, sources = made()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert before + list(islice(resumed, 200)) == whole
    assert sum(source.read for source in sources) == 200


def test_a_balancers_stream_follows_its_lambda_and_correct_takes_it_out():
    counts = Targets.from_class_counts([800, 150, 50], names=["a", "b", "c"])
    balancer = Balancer(counts, seed=1)
    source = [(i, 0 if i % 20 < 16 else 1 if i % 20 < 19 else 2) for i in range(4000)]
    stream = balancer.stream(source, label=1, repeat=True, chunk_size=50)
    drawn = iter(stream)
    for recalls in ([0.9, 0.5, 0.1], [0.9, 0.4, 0.3]):
        asked = balancer.sampler.expected_draws()
        assert apart([c for _, c in islice(drawn, 200, 3200)], asked) < 0.005
        balancer.loss(torch.zeros(3, 3), torch.arange(3))
        shift = balancer.correct(torch.zeros(1, 3, dtype=torch.float64))[0]
        shift = -(shift - shift.mean()).numpy()
        assert shift == pytest.approx(balancer.log_weight, abs=1e-6)  # of sampler and loss together
        observed(balancer, recalls)
        balancer.step()
    assert apart([0, 1, 2], balancer.sampler.expected_draws()) > 0.01
    again = Balancer(counts, seed=1)
    resumed = again.stream(source, label=1)
    again.load_state_dict(balancer.state_dict())
    assert torch.equal(resumed.shares, stream.shares)
    mixed = balancer.stream({"c": [9], "a": [7], "b": [8]}, repeat=True)
    assert [example for example, _ in islice(mixed, 50)].count(7) > 5


def test_an_example_of_several_labels_counts_as_the_one_furthest_from_its_share():
    source = [
        (i, [0] if i % 10 else [0, 1 + (i % 20 > 0)] if i % 100 else [2, 0, 1]) for i in range(4000)
    ]
    stream = BalancedStream(source, 1, [2, 1, 1])
    assert stream._filed([[0, 1], [2, 0], np.array([0, 1])]).tolist() == [0, 2, 0]
    yielded = [labels for _, labels in stream][400:]
    often = np.mean([[c in labels for c in range(3)] for labels in yielded], axis=0)
    alone = np.mean([labels == [0] for labels in yielded])
    assert alone == pytest.approx(0.5, abs=0.01)  # class 0 is met by its own
    assert often[0] == 1
    assert often[1:].sum() == pytest.approx(0.5, abs=0.1)
    by_factor = BalancedStream(source, 1, [1, 3, 2], relative=True)
    assert by_factor._filed([[0, 2], [2, 1, 0], torch.tensor([0])]).tolist() == [2, 1, 0]


def write_shards(folder: Path, source: list[tuple[int, int]], shards: int) -> list[str]:
    wds = pytest.importorskip("webdataset")
    paths = [str(folder / f"{k}.tar") for k in range(shards)]
    for k, path in enumerate(paths):
        with wds.TarWriter(path) as tar:
            for i, c in source[k::shards]:
                tar.write({"__key__": f"{i:06}", "txt": str(i), "cls": c})
    return paths


def number_and_class(example: dict) -> tuple[int, int]:
    return int(example["txt"]), int(example["cls"])


def tar_loader(paths: list[str], rank: int, replicas: int, workers: int) -> StatefulDataLoader:
    """As a training on several machines makes it: shards split by rank and worker."""
    wds = pytest.importorskip("webdataset")
    source = wds.WebDataset(
        paths[rank::replicas], nodesplitter=None, shardshuffle=False, empty_check=False
    )
    stream = BalancedStream(
        *(source, "cls", [1, 1, 1]),
        decode=number_and_class,
        max_repeats=4,
        chunk_size=20,
        rank=rank,
        num_replicas=replicas,
    )
    return StatefulDataLoader(stream, 10, num_workers=workers)


def numbers_of(batches) -> Iterator[list[int]]:
    return (numbers.tolist() for numbers, _ in batches)


def train_on_shards(paths: list[str], rank: int, folder: Path, pause: float = 0.01) -> None:
    """From the last checkpoint on: each batch is logged, and every third one saved."""
    loader, done = tar_loader(paths, rank, 2, workers=2), 0
    saved, log = folder / f"{rank}.pt", folder / f"{rank}.log"
    if saved.exists():
        state = checkpoint.load(saved)
        loader.load_state_dict(state["loader"])
        done = state["done"]
    for numbers in numbers_of(loader):
        with log.open("a") as file:
            file.write(json.dumps([done, numbers]) + "\n")
        done += 1
        if done % 3 == 0:
            checkpoint.save(saved, loader=loader.state_dict(), done=done)
        time.sleep(pause)


def test_killed_and_resumed_on_tar_shards(tmp_path):
    """Two processes with two workers each, killed at any moment, train on what would have come."""
    source = long_tailed(1200, 3, rarest=0.3)
    paths = write_shards(tmp_path, source, shards=8)
    chance, kills = random.Random(0), 0
    for patience in itertools.count(1):  # on a slow machine as well it gets somewhere
        ranks = [
            processes().Process(target=train_on_shards, args=(paths, rank, tmp_path))
            for rank in range(2)
        ]
        for child in ranks:
            child.start()
        if patience < 4:
            time.sleep(chance.uniform(0.5, 1) * patience)
            [child.kill() for child in ranks]
        [child.join() for child in ranks]
        kills += sum(child.exitcode == -signal.SIGKILL for child in ranks)
        if all(child.exitcode == 0 for child in ranks):
            break
    assert kills
    seen: Counter[int] = Counter()
    for rank in range(2):
        lines = map(json.loads, (tmp_path / f"{rank}.log").read_text().splitlines())
        trained = dict(lines)  # a later start did again what came behind its checkpoint
        assert [trained[i] for i in sorted(trained)] == list(
            numbers_of(tar_loader(paths, rank, 2, workers=2))
        )
        seen.update(i for batch in trained.values() for i in batch)
    assert max(seen.values()) <= 4  # each shard is read by one worker of one rank
    rare = [i for i, c in source if c == 2]
    assert np.mean([i in seen for i in rare]) > 0.9


def test_hugging_face_streaming(tmp_path):
    """Split over workers by `datasets`, resumed by its own state."""
    datasets = pytest.importorskip("datasets")
    source = long_tailed(800, 3, rarest=0.2)
    for k in range(4):
        lines = [json.dumps({"i": i, "label": c}) for i, c in source[k::4]]
        (tmp_path / f"{k}.jsonl").write_text("\n".join(lines))

    def made() -> StatefulDataLoader:
        files = sorted(map(str, tmp_path.glob("*.jsonl")))
        streaming = datasets.load_dataset(
            "json", data_files=files, split="train", streaming=True, cache_dir=str(tmp_path / "c")
        )
        stream = BalancedStream(
            *(streaming, "label", [1, 1, 1]),
            decode=lambda row: (row["i"], row["label"]),
            repeat=True,
            chunk_size=20,
        )
        return StatefulDataLoader(stream, 10, num_workers=2)

    def first(batches, n: int) -> list[tuple[list[int], list[int]]]:
        return [(i.tolist(), c.tolist()) for i, c in islice(batches, n)]

    whole = first(iter(made()), 120)  # a pass and a half
    classes = [c for _, batch in whole for c in batch]
    assert apart(classes[200:], np.ones(3)) < 0.01
    assert len({i for batch, _ in whole for i in batch}) > 450
    loader = made()
    batches = iter(loader)
    before = first(batches, 30)
    state = loader.state_dict()
    again = made()
    again.load_state_dict(state)
    assert before + first(iter(again), 90) == whole
