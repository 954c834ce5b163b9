"""check and targets: whole files are read, broken ones are errors, never hangs or crashes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.ffcv.conftest import LABELS, SIZE

pytestmark = pytest.mark.ffcv

HEADER, FIELD, ALLOCATION = 24, 1041, 24


def dense(targets) -> np.ndarray:
    return targets.matrix.toarray()


@pytest.fixture(scope="module")
def content(beton) -> bytes:
    with open(beton, "rb") as file:
        return file.read()


@pytest.mark.filterwarnings("ignore:Of 4 classes these have no example")
def test_targets_of_class_ids(beton):
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader, check, targets

    assert check(beton).num_samples == SIZE
    assert targets(beton).labels.tolist() == LABELS.tolist()
    assert targets(beton, "id").labels.tolist() == list(range(SIZE))
    part = [5, 60, 3]
    loader = Loader(beton, 2, num_workers=1, indices=part)
    for source in (loader, BalancedLoader(loader)):
        assert targets(source).labels.tolist() == LABELS[part].tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.bool_])
def test_targets_of_every_kind_of_field(tmp_path, dtype):
    from ffcv.fields import FloatField, NDArrayField
    from ffcv.writer import DatasetWriter

    from equipoise.ffcv import MultiHotField, check, targets

    rng = np.random.default_rng(0)
    hot = (rng.random((500, 13)) < 0.2).astype(dtype)
    ids = rng.integers(0, 5, 500)
    path = str(tmp_path / "all.beton")
    fields = {"array": NDArrayField(np.dtype(dtype), (13,)), "hot": MultiHotField(13)}
    fields |= {"one": NDArrayField(np.dtype("<i4"), (1,)), "float": FloatField()}
    rows = list(zip(hot, hot, ids.astype("<i4")[:, None], ids.astype(float), strict=True))
    DatasetWriter(path, fields, num_workers=1).from_indexed_dataset(rows)
    assert list(check(path).handlers) == list(fields)
    for name in ("array", "hot"):
        assert (dense(targets(path, name)) == hot).all()
    assert targets(path, "float").labels.tolist() == ids.tolist()
    with pytest.raises(ValueError, match="Expected multi-hot labels to be 0 or 1"):
        targets(path, "one")


def test_wrong_fields(beton, tmp_path):
    from equipoise.ffcv import targets, write

    with pytest.raises(ValueError, match=r"field to be one of \['image', 'label', 'id'\]"):
        targets(beton, "labels")
    with pytest.raises(TypeError, match="'image', a RGBImageField"):
        targets(beton, "image")
    path = tmp_path / "floats.beton"
    write([(0.5, 1.5), (float("nan"), 1.0)], path, progress=False)
    with pytest.raises(ValueError, match="Expected labels to be whole class ids"):
        targets(path)
    write((np.zeros((2, 3, 3)), [[-1.0, 0.5], [1, 1]]), path, progress=False)
    with pytest.raises(TypeError, match=r"arrays of shape \(3, 3\)"):
        targets(path, "image")
    with pytest.raises(ValueError, match="0 or 1"):
        targets(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50,
        bytes(24),
        bytes(5000),
        b"\xff" * 5000,
        b"\2\0\1\0" + b"\xff" * 5000,
        np.random.default_rng(0).bytes(1 << 20),
        b"label,image\n" * 1000,
    ],
    ids=lambda content: f"{content[:4]!r}×{len(content)}",
)
def test_what_is_no_beton(tmp_path, content):
    from equipoise.ffcv import check, targets

    path = tmp_path / "no.beton"
    path.write_bytes(content)
    for function in (check, targets):
        with pytest.raises(ValueError, match=r"to be a whole FFCV file, but got .*no"):
            function(path)


def test_no_file(tmp_path):
    from equipoise.ffcv import check, targets

    for path in (tmp_path / "none.beton", tmp_path, ""):
        for function in (check, targets):
            with pytest.raises(FileNotFoundError, match="Expected path to be an FFCV file"):
                function(path)


def cuts(size: int) -> list[int]:
    table = size - SIZE * ALLOCATION
    index = HEADER + 3 * FIELD
    around = [0, HEADER, HEADER + FIELD, index, index + SIZE * 8, 1 << 23, table, size]
    near = [at + step for at in around for step in (-25, -24, -8, -1, 0, 1, 8, 24, 25)]
    every_row_of_the_table = range(table, size, ALLOCATION)
    random = np.random.default_rng(0).integers(0, size, 100)
    return sorted({int(at) for at in (*near, *every_row_of_the_table, *random) if 0 <= at < size})


def test_every_cut_is_noticed(content, tmp_path):
    from equipoise.ffcv import check

    path = tmp_path / "cut.beton"
    path.write_bytes(content)
    check(path)
    for size in sorted(cuts(len(content)), reverse=True):
        with open(path, "r+b") as file:
            file.truncate(size)
        with pytest.raises(ValueError, match="Expected path to be a whole FFCV file"):
            check(path)


def test_no_damage_to_header_index_or_table_gets_past_unless_ffcv_can_read_it(content, tmp_path):
    """Random damage is refused, or the file is one that FFCV reads without a crash."""
    from equipoise.ffcv import check

    path = tmp_path / "damaged.beton"
    table = len(content) - SIZE * ALLOCATION
    rng = np.random.default_rng(1)
    regions = [(0, HEADER), (HEADER, HEADER + 40), (HEADER + 3 * FIELD, HEADER + 3 * FIELD + 2048)]
    regions += [(table, len(content))]
    passed = []
    for trial in range(400):
        first, last = regions[trial % len(regions)]
        damaged = bytearray(content)
        for at in rng.integers(first, last, rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            check(path)
        except ValueError:
            continue
        if bytes(damaged) != content and len(passed) < 3:
            passed.append(tmp_path / f"passed{trial}.beton")
            passed[-1].write_bytes(damaged)
    assert passed, "labels in the index may be anything"
    program = """
import sys
from ffcv.loader import Loader
for path in sys.argv[1:]:
    try:
        loader = Loader(path, 8, num_workers=1)
    except (TypeError, ValueError):
        continue
    for batch in loader:
        pass
print("read all")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, passed)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split("\n")[-2:-1] == ["read all"], done.stderr


def test_a_loader_of_a_truncated_file_with_an_order_is_refused(content, tmp_path):
    """Before FFCV reads an example, which is where it would crash."""
    from ffcv.loader import Loader

    from equipoise.ffcv import order
    from equipoise.samplers import ClassBalancedSampler

    path = tmp_path / "cut.beton"
    for size in (len(content) - 24, len(content) - 240, 1 << 23, 8000):
        path.write_bytes(content[:size])
        # Cut in the table, FFCV alone would open it; cut in the data, it raises an error of NumPy
        with pytest.raises(ValueError, match=r"not in the table of|negative dimensions"):
            Loader(str(path), 8, num_workers=1, order=order(ClassBalancedSampler(LABELS)))


def test_unfinished_writing_is_noticed(content, tmp_path):
    from equipoise.ffcv import check

    path = tmp_path / "unfinished.beton"
    path.write_bytes(content[:16] + bytes(8) + content[24 : 1 << 20])
    with pytest.raises(ValueError, match="its writing was not finished"):
        check(path)


def test_unknown_custom_field(tmp_path):
    from ffcv.fields import IntField
    from ffcv.writer import DatasetWriter

    from equipoise.ffcv import MultiHotField, check

    class Mine(IntField):
        @staticmethod
        def from_binary(binary):
            return Mine()

    path = str(tmp_path / "custom.beton")
    DatasetWriter(path, {"mine": Mine()}, num_workers=1).from_indexed_dataset([(1,), (2,)])
    with pytest.raises(ValueError, match="custom_fields to have the class of field 'mine'"):
        check(path)
    assert check(path, {"mine": Mine}).metadata["f0"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="written by MultiHotField, but got another"):
        check(path, {"mine": MultiHotField})
