"""A small .beton whose images say which example they are, and loaders of it."""

from __future__ import annotations

import functools
import threading
import time
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest

SIZE = 64
LABELS = np.minimum(np.arange(SIZE) % 16 // 3, 3)  # classes of 12, 12, 12 and 28 examples


class Numbered:
    """Example i: an 8×8 image whose every pixel says i, its label, and i as a field."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, int]:
        return np.full((8, 8, 3), i, np.uint8), int(LABELS[i % SIZE]), int(i)


KEPT = []  # every Loader made


@pytest.fixture(scope="session", autouse=True)
def loaders_are_kept():
    """Keeps FFCV's compiled functions from being collected while tests run.

    FFCV changes interned numba types (`t1.mutable = False`), which are keys of numba's overloads.
    So numba's finalizer raises KeyError wherever the collector happens to run, and inside of
    `ast.parse` Python 3.11 turns that into a SystemError, in a test that has nothing to do with it.
    """
    try:
        from ffcv.loader import Loader
    except ImportError:
        yield
        return
    make = Loader.__init__

    @functools.wraps(make)
    def make_and_keep(self, *args, **settings):
        KEPT.append(self)
        make(self, *args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "__init__", make_and_keep)
        yield


@pytest.fixture(scope="session")
def beton(tmp_path_factory):
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    path = str(tmp_path_factory.mktemp("ffcv") / "numbered.beton")
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField(), "id": IntField()}
    DatasetWriter(path, fields, num_workers=1).from_indexed_dataset(Numbered())
    return path


def ids_seen(batches) -> np.ndarray:
    """The ids an epoch's images say, after checking that labels and id fields agree."""
    seen = [np.zeros(0, np.int64)]
    for images, labels, ids, *_ in batches:
        at = images[:, 0, 0, 0].numpy().astype(np.int64)
        assert (images.numpy() == at[:, None, None, None]).all()
        assert (ids.numpy().ravel() == at).all()
        assert (labels.numpy().ravel() == LABELS[at]).all()
        seen.append(at.copy())
    return np.concatenate(seen)


def threads_of_ffcv() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if type(thread).__name__ in ("EpochIterator", "PageReader") and thread.is_alive()
    ]


@pytest.fixture
def no_thread_left():
    """A test that leaves a thread of FFCV alive fails."""
    before = set(threads_of_ffcv())
    yield
    deadline = time.monotonic() + 5
    while (left := set(threads_of_ffcv()) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, f"threads left: {left}"


@pytest.fixture
def in_time():
    """Calls a function, failing the test where it takes longer than 20 seconds."""

    def call(function, *args):
        with ThreadPool(1) as pool:
            return pool.apply_async(function, args).get(20)

    return call
