"""Killed at any moment, started again: the order that would have come, nothing lost or doubled."""

from __future__ import annotations

import itertools
import random
import signal
from pathlib import Path

import pytest

from tests.ranks import programs
from tests.ranks.worlds import processes, run_world

EPOCHS = 3
BATCH = programs.GLOBAL_BATCH


def read(path: Path) -> list[tuple[int, int, int, list[int]]]:
    """Lines of a log: start of the program, epoch, position, ids."""
    lines = [list(map(int, line.split())) for line in path.read_text().splitlines()]
    return [(start, epoch, position, ids) for start, epoch, position, *ids in lines]


def kept(lines: list) -> list:
    """Lines that a later start did not go back behind: what the trained network has seen."""
    out: list = []
    for line in lines:
        if out and line[0] != out[-1][0]:
            out = [old for old in out if old[1:3] < line[1:3]]
        out.append(line)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Epoch and position → ids, of runs that were never stopped."""
    orders = {}
    for kind in ("closed loop", "pruning", "hardest", "multilabel"):
        folder = tmp_path_factory.mktemp("whole")
        assert programs.train_and_save(0, 1, kind, EPOCHS, str(folder))
        orders[kind] = {(e, p): ids for _, e, p, ids in read(folder / "log-0")}
        assert len(orders[kind]) == EPOCHS * programs.N // BATCH // (1 + (kind == "pruning"))
    return orders


def start(*args, **options):
    child = processes().Process(
        target=programs.train_and_save, args=(0, 1, *args), kwargs=options, daemon=not options
    )
    child.start()
    return child


@pytest.mark.parametrize(
    ("kind", "workers", "kills"),
    [
        ("closed loop", 0, 40),
        ("pruning", 0, 20),
        ("hardest", 0, 10),
        ("multilabel", 0, 15),
        ("closed loop", 2, 15),
    ],
)
def test_killed_at_random_nothing_is_lost_or_doubled(kind, workers, kills, whole, tmp_path):
    chance = random.Random(f"{kind} {workers}")
    killed = run = 0
    while killed < kills:
        run += 1
        folder = tmp_path / str(run)
        folder.mkdir()
        for patience in itertools.count():  # on a slow machine as well it gets somewhere
            child = start(kind, EPOCHS, str(folder), workers=workers, pause=0.002)
            child.join(chance.uniform(0.05, 0.4 + 0.05 * patience))
            child.kill()  # does nothing to one that has just ended
            child.join()
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
            killed += 1
        trained = kept(read(folder / "log-0"))
        assert [(e, p) for _, e, p, _ in trained] == list(whole[kind])
        assert all(ids == whole[kind][e, p] for _, e, p, ids in trained)


@pytest.mark.parametrize("kind", ["closed loop", "pruning", "multilabel"])
def test_another_number_of_ranks_goes_on_where_the_last_was(kind, whole, tmp_path):
    """Stopped after some steps each time; 1, 3, 2, 4, … processes."""
    chance = random.Random(kind)
    for size in [1, 3, 2, 4, 3, 1, 4]:
        steps = chance.randint(1, 5)
        ends = run_world(size, stop_after, kind, str(tmp_path), steps, folder=tmp_path)
        assert all(isinstance(end, EOFError) for end in ends), ends
    arguments = (kind, EPOCHS, str(tmp_path))
    assert all(run_world(2, programs.train_and_save, *arguments, folder=tmp_path))
    assert [(e, p) for _, e, p, _ in kept(read(tmp_path / "log-0"))] == list(whole[kind])
    for rank in range(4):
        for _, epoch, position, ids in read(tmp_path / f"log-{rank}"):
            if kind == "pruning" and epoch > 0:
                continue  # a state has its own rank's losses alone, until the epoch's step
            assert ids == whole[kind][epoch, position][rank :: BATCH // len(ids)]


def stop_after(rank, size, kind, folder, steps):
    return programs.train_and_save(rank, size, kind, EPOCHS, folder, every=2, stop_after=steps)
