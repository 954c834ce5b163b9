"""MultiHotField: what is read is what was written, bit for bit, with both caches."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch

with suppress(Exception):  # without a sound FFCV these tests are skipped, or fail
    from ffcv.loader import Loader, OrderOption

    from equipoise.ffcv import BalancedLoader, MultiHotField, targets, write

pytestmark = pytest.mark.ffcv


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("num_classes", [1, 7, 8, 9, 64, 101])
def test_packing(num_classes, ids):
    field = MultiHotField(num_classes, max_labels=num_classes if ids else None)
    hot = (np.random.default_rng(0).random((5000, num_classes)) < 0.3).astype(np.uint8)
    packed = np.zeros(5000, field.metadata_type)
    assert packed.nbytes == 5000 * (2 * num_classes if ids else -(-num_classes // 8))
    forms = [lambda row: row, torch.from_numpy, list, lambda row: row.astype(bool)]
    for i, row in enumerate(hot):
        field.encode(packed[i : i + 1], forms[i % 4](row), None)
    assert (np.concatenate(list(field.rows(packed))) == hot).all()
    again = MultiHotField.from_binary(field.to_binary()[0])
    assert repr(again) == repr(field)
    assert again.metadata_type == field.metadata_type


@pytest.mark.parametrize(
    ("os_cache", "workers", "max_labels"),
    [(True, 1, None), (True, 2, 37), (False, 1, 37), (False, 2, None)],
)
def test_through_a_loader(tmp_path, os_cache, workers, max_labels, no_thread_left):
    hot = (np.random.default_rng(1).random((50, 37)) < 0.3).astype(np.uint8)
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 4, 3), np.uint8)
    hot[0], hot[1], path = 0, 1, str(tmp_path / "hot.beton")
    field = MultiHotField(37, max_labels)
    write((images, hot), path, {"image": None, "label": field}, progress=False)
    loader = Loader(
        path,
        8,
        num_workers=workers,
        os_cache=os_cache,
        order=OrderOption.RANDOM,
        drop_last=False,
        custom_fields={"label": MultiHotField},
    )
    seen = []
    for images, labels in BalancedLoader(loader):
        ids = images[:, 0, 0, 0].numpy()
        assert labels.dtype == torch.uint8
        assert (labels.numpy() == hot[ids]).all()
        seen += ids.tolist()
    assert sorted(seen) == list(range(50))
    for source in (path, loader):
        assert (targets(source).matrix.toarray() == hot).all()


@pytest.mark.parametrize(
    "labels", [[0, 1], [0.5, 0, 1], [[0, 1, 1]], [np.nan, 0, 0], [0, -1, 1]], ids=str
)
def test_wrong_labels(labels):
    with pytest.raises(ValueError, match=r"Expected labels for MultiHotField\(3\) to be \(3,\) of"):
        MultiHotField(3).encode(np.zeros((1, 1), np.uint8), labels, None)
    with pytest.raises(ValueError, match=r"for MultiHotField\(3, max_labels=2\) to be at most 2"):
        MultiHotField(3, 2).encode(np.zeros((1, 2), np.uint16), [1, 1, 1], None)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        *(((wrong,), "num_classes") for wrong in (0, 2.0, None)),
        *(((10, wrong), "max_labels") for wrong in (0, 11, 2.0, True)),
        ((65_536, 2), "max_labels"),
    ],
)
def test_wrong_numbers(arguments, name):
    with pytest.raises((TypeError, ValueError), match=f"Expected {name} to be"):
        MultiHotField(*arguments)
