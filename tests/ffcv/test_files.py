"""check and targets: whole files are read, broken ones are errors, never hangs or crashes."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from tests.ffcv.conftest import LABELS, SIZE

with suppress(Exception):  # without a sound FFCV these tests are skipped, or fail
    from ffcv.fields import FloatField, IntField, NDArrayField
    from ffcv.loader import Loader
    from ffcv.writer import DatasetWriter

    from equipoise.ffcv import BalancedLoader, MultiHotField, check, order, targets, write

pytestmark = pytest.mark.ffcv

HEADER, FIELD, ALLOCATION = 24, 1041, 24
INDEX = HEADER + 3 * FIELD  # of an image: its mode, width, height and address


@pytest.fixture(scope="module")
def content(beton) -> bytes:
    with open(beton, "rb") as file:
        return file.read()


@pytest.mark.filterwarnings("ignore:Of 4 classes these have no example")
def test_targets_of_class_ids(beton):
    assert check(beton).num_samples == SIZE
    assert targets(beton).labels.tolist() == LABELS.tolist()
    assert targets(beton, "id").labels.tolist() == list(range(SIZE))
    part = [5, 60, 3]
    loader = Loader(beton, 2, num_workers=1, indices=part)
    for source in (loader, BalancedLoader(loader)):
        assert targets(source).labels.tolist() == LABELS[part].tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.bool_])
def test_targets_of_every_kind_of_field(tmp_path, dtype):
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
        assert (targets(path, name).matrix.toarray() == hot).all()
    assert targets(path, "float").labels.tolist() == ids.tolist()
    with pytest.raises(ValueError, match="Expected multi-hot labels to be 0 or 1"):
        targets(path, "one")


def test_wrong_fields(beton, tmp_path):
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
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50,
        bytes(24),
        b"\2\0\1\0" + b"\xff" * 5000,
        np.random.default_rng(0).bytes(1 << 20),
    ],
    ids=lambda content: f"{content[:4]!r}×{len(content)}",
)
def test_what_is_no_beton(tmp_path, content):
    path = tmp_path / "no.beton"
    path.write_bytes(content)
    for function in (check, targets):
        with pytest.raises(ValueError, match=r"to be a whole FFCV file, but got .*no"):
            function(path)
        for missing in (tmp_path / "none.beton", tmp_path):
            with pytest.raises(FileNotFoundError, match="Expected path to be an FFCV file"):
                function(missing)


def cuts(size: int) -> list[int]:
    table = size - SIZE * ALLOCATION
    around = [0, HEADER, HEADER + FIELD, INDEX, INDEX + SIZE * 8, 1 << 23, table, size]
    near = [at + step for at in around for step in (-25, -24, -8, -1, 0, 1, 8, 24, 25)]
    every_row_of_the_table = range(table, size, ALLOCATION)
    random = np.random.default_rng(0).integers(0, size, 100)
    return sorted({int(at) for at in (*near, *every_row_of_the_table, *random) if 0 <= at < size})


def test_every_cut_is_noticed(content, tmp_path):
    path = tmp_path / "cut.beton"
    path.write_bytes(content)
    check(path)
    for size in sorted(cuts(len(content)), reverse=True):
        with open(path, "r+b") as file:
            file.truncate(size)
        with pytest.raises(ValueError, match="Expected path to be a whole FFCV file"):
            check(path)


DAMAGE = {
    "another version": (0, np.uint16(9)),
    "pages of 3 bytes": (4, np.uint32(3)),
    "no examples": (8, np.uint64(0)),
    "writing not finished": (16, np.uint64(0)),
    "an unknown field": (HEADER, np.uint8(200)),
    "an unknown kind of image": (INDEX, np.uint8(7)),
    "an image of no height": (INDEX + 3, np.uint16(0)),
    "an image larger than its part": (INDEX + 3, np.uint16(9)),
    "an image elsewhere": (INDEX + 5, np.uint64(12345)),
    "a part of no example": (-SIZE * ALLOCATION, np.uint64(SIZE)),
    "a part behind the file's end": (-SIZE * ALLOCATION + 8, np.uint64(1 << 40)),
    "a part of no size": (-SIZE * ALLOCATION + 16, np.uint64(0)),
    "parts that overlap": (-SIZE * ALLOCATION + 16, np.uint64(1000)),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_noticed(content, tmp_path, what):
    """FFCV would crash, hang, or read what is not there."""
    place, value = DAMAGE[what]
    path, damaged = tmp_path / "damaged.beton", bytearray(content)
    place %= len(damaged)
    damaged[place : place + value.nbytes] = value.tobytes()
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="Expected path to be a whole FFCV file"):
        check(path)


def test_a_loader_of_a_truncated_file_with_an_order_is_refused(content, tmp_path):
    """Before FFCV reads an example, which is where it would crash."""
    from equipoise.samplers import ClassBalancedSampler

    path = tmp_path / "cut.beton"
    for size in (len(content) - 240, 1 << 23):
        path.write_bytes(content[:size])
        # Cut in the table, FFCV alone would open it; cut in the data, it raises an error of NumPy
        with pytest.raises(ValueError, match=r"not in the table of|negative dimensions"):
            Loader(str(path), 8, num_workers=1, order=order(ClassBalancedSampler(LABELS)))


def test_unknown_custom_field(tmp_path):
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
