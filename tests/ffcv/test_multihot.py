"""MultiHotField: what is read is what was written, bit for bit, with both caches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.ffcv


@pytest.mark.parametrize("num_classes", [1, 7, 8, 9, 64, 101])
def test_packing(num_classes):
    from equipoise.ffcv import MultiHotField

    field = MultiHotField(num_classes)
    hot = (np.random.default_rng(0).random((5000, num_classes)) < 0.3).astype(np.uint8)
    packed = np.zeros((5000, -(-num_classes // 8)), np.uint8)
    assert field.metadata_type.itemsize == packed.shape[1]
    forms = [lambda row: row, torch.from_numpy, list, lambda row: row.astype(bool)]
    for i, row in enumerate(hot):
        field.encode(packed[i : i + 1], forms[i % 4](row), None)
    assert (np.concatenate(list(field.rows(packed))) == hot).all()
    again = MultiHotField.from_binary(field.to_binary()[0])
    assert again.num_classes == num_classes


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("os_cache", [True, False])
def test_through_a_loader(tmp_path, os_cache, workers, no_thread_left):
    from ffcv.loader import Loader, OrderOption

    from equipoise.ffcv import BalancedLoader, MultiHotField, targets, write

    hot = (np.random.default_rng(1).random((50, 37)) < 0.3).astype(np.uint8)
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 4, 3), np.uint8)
    path = str(tmp_path / "hot.beton")
    write((images, hot), path, {"image": None, "label": MultiHotField(37)}, progress=False)
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
    "labels", [[0, 1], [0, 1, 2], [0.5, 0, 1], [[0, 1, 1]], [np.nan, 0, 0], [0, -1, 1]]
)
def test_wrong_labels(labels):
    from equipoise.ffcv import MultiHotField

    with pytest.raises(ValueError, match=r"Expected labels for MultiHotField\(3\) to be \(3,\) of"):
        MultiHotField(3).encode(np.zeros((1, 1), np.uint8), labels, None)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, None])
def test_wrong_number_of_classes(num_classes):
    from equipoise.ffcv import MultiHotField

    with pytest.raises(ValueError, match="Expected num_classes to be a positive int"):
        MultiHotField(num_classes)
