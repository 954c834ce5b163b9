"""The file is the old one or the new one, and what is wrong with another is said."""

from __future__ import annotations

import os
import random
import resource
import signal
import time

import numpy as np
import pytest
import torch

from equipoise import Balancer, checkpoint
from tests.ranks.worlds import processes

LABELS = [0, 0, 0, 1, 1, 2]


def test_round_trip(tmp_path):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    balancer = Balancer(LABELS)
    path = tmp_path / "last.pt"
    checkpoint.save(path, model=model, optimizer=optimizer, balancer=balancer, epoch=3)
    states = checkpoint.load(path)
    assert states["epoch"] == 3
    assert torch.equal(states["model"]["weight"], model.weight)
    Balancer(LABELS).load_state_dict(states["balancer"])
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_what_could_not_be_read_back_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, epoch=1)
    with pytest.raises(TypeError, match="Expected parts to be tensors, numbers"):
        checkpoint.save(path, history=np.zeros(3))
    assert checkpoint.load(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((lambda data, cut=cut: data[:cut], "to be a checkpoint") for cut in (0, 1, 100, -1)),
        (flipped, "does not have the checksum"),
    ],
)
def test_a_damaged_or_another_file_is_refused(damage, message, tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, balancer=Balancer(LABELS), table=torch.arange(10_000))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"Expected .*last\.pt .*{message}"):
        checkpoint.load(path)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.pt")
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="hold states by name, but got a list"):
        checkpoint.load(path)


def _write_for_ever(path, at=0):
    for i in range(at, 10**9):
        checkpoint.save(path, i=i, table=torch.full((500_000,), i))


def whole(path) -> int:
    states = checkpoint.load(path)
    assert (states["table"] == states["i"]).all()
    return states["i"]


def test_two_write_to_one_path_and_are_killed_in_mid_write(tmp_path):
    """There is always a whole file, and the next to write clears up behind the dead alone."""
    path, chance, left = tmp_path / "last.pt", random.Random(0), 0
    for _ in range(10):
        checkpoint.save(path, i=-1, table=torch.full((500_000,), -1))
        assert os.listdir(tmp_path) == ["last.pt"]
        writers = [
            processes().Process(target=_write_for_ever, args=(path, at), daemon=True)
            for at in (0, 10_000)
        ]
        for writer in writers:
            writer.start()
        seen, deadline = set(), time.monotonic() + 60
        while not {0, 1} <= seen and time.monotonic() < deadline:
            seen.add(whole(path) // 10_000)
        time.sleep(chance.uniform(0, 0.05))
        assert {0, 1} <= seen, "one could not write"
        assert all(writer.is_alive() for writer in writers)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        assert whole(path) >= 0
        left += len(os.listdir(tmp_path)) - 1
    assert left, "some were killed while they wrote"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
@pytest.mark.parametrize("linked", [False, True])
def test_permissions_and_links_are_what_open_would_give(tmp_path, umask, mode, linked):
    (tmp_path / "disk").mkdir()
    path, real = tmp_path / "last.pt", tmp_path / "disk" / "run7.pt"
    if linked:
        path.symlink_to("disk/run7.pt")
    before = os.umask(umask)
    try:
        checkpoint.save(path, epoch=1)
        assert path.stat().st_mode & 0o777 == mode
        path.chmod(0o640)
        checkpoint.save(path, epoch=2)
        assert path.stat().st_mode & 0o777 == 0o640, "those of the file that was there"
    finally:
        os.umask(before)
    assert path.is_symlink() == linked
    assert checkpoint.load(real if linked else path) == {"epoch": 2}
    assert os.listdir(tmp_path / "disk") == ["run7.pt"] * linked


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(IsADirectoryError, match="Expected path to be a file"):
        checkpoint.save(tmp_path, epoch=1)
    with pytest.raises(FileNotFoundError):
        checkpoint.save(tmp_path / "none" / "last.pt", epoch=1)


def _save_on_a_full_disk(path, pipe):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        checkpoint.save(path, epoch=2, table=torch.zeros(500_000))
    except Exception as error:
        pipe.send((type(error).__name__, str(error)))


def test_on_a_full_disk_the_old_one_survives(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, epoch=1)
    here, there = processes().Pipe(duplex=False)
    child = processes().Process(target=_save_on_a_full_disk, args=(path, there))
    child.start()
    child.join(60)
    assert here.poll(0), "it did not raise"
    kind, message = here.recv()
    assert kind == "OSError"
    assert "last.pt could not be written" in message
    assert checkpoint.load(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
