"""write: what FFCV reads is what was given; what cannot be written is an error, at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from tests.ffcv.conftest import Numbered

with suppress(Exception):  # without a sound FFCV these tests are skipped, or fail
    from ffcv.loader import Loader

    from equipoise.ffcv import BalancedLoader, MultiHotField, check, targets, write
    from equipoise.ffcv.infer_fields import describe

pytestmark = [
    pytest.mark.ffcv,
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (230, 6, 5, 3), np.uint8)  # three chunks, the last not full
IDS = rng.integers(0, 7, 230)
HOT = (rng.random((230, 11)) < 0.3).astype(np.uint8)


def read(path, **settings):
    """All of a file, field by field, through FFCV's Loader."""
    loader = Loader(str(path), 50, num_workers=1, drop_last=False, **settings)
    parts = [[part.clone() for part in batch] for batch in BalancedLoader(loader)]
    return [torch.cat(column).numpy() for column in zip(*parts, strict=True)]


def kinds(fields) -> list[str]:
    return [f"{name}: {describe(field)}" for name, field in fields.items()]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_arrays(tmp_path, num_workers):
    path = tmp_path / "arrays.beton"
    fields = write((IMAGES, IDS), path, num_workers=num_workers, progress=False)
    assert kinds(fields) == ["image: RGBImageField('raw')", "label: IntField"]
    check(path)
    images, labels = read(path)
    assert (images == IMAGES).all()
    assert (labels.ravel() == IDS).all()
    assert os.listdir(tmp_path) == ["arrays.beton"]


FORMS = {
    "PIL": lambda i: (Image.fromarray(IMAGES[i]), int(IDS[i])),
    "tensors": lambda i: (torch.from_numpy(IMAGES[i]).permute(2, 0, 1), torch.tensor(IDS[i])),
    "tensors, channels last": lambda i: (torch.from_numpy(IMAGES[i]), np.int32(IDS[i])),
    "lists": lambda i: [IMAGES[i], IDS[i : i + 1]],
    "float ids": lambda i: [IMAGES[i], float(IDS[i])],
    "dicts": lambda i: {"pixels": IMAGES[i], "label": int(IDS[i])},
    "three parts": lambda i: (IMAGES[i], IDS[i], 1.5),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_examples(tmp_path, form):
    path = tmp_path / "forms.beton"
    samples = torch.utils.data.Subset([FORMS[form](i) for i in range(25)], range(20))
    first, second, *rest = write(samples, path, progress=False)
    assert [first, second] == ["pixels" if form == "dicts" else "image", "label"]
    assert rest == (["field2"] if form == "three parts" else [])
    assert targets(path).labels.tolist() == IDS[:20].tolist()
    (images,) = read(path, pipelines=dict.fromkeys(["label", *rest]))
    assert (images == IMAGES[:20]).all()


def test_multi_hot_and_features(tmp_path):
    path, features = tmp_path / "features.beton", torch.randn(230, 4)
    for fields, kind in (
        (None, "label: NDArrayField(uint8, (11,))"),
        ({"features": None, "label": MultiHotField(11)}, "label: MultiHotField(11)"),
    ):
        written = write((features, HOT.astype(bool)), path, fields, num_workers=2, progress=False)
        assert kinds(written) == ["features: NDArrayField(float32, (4,))", kind]
        assert (targets(path).matrix.toarray() == HOT).all()
        custom = {"label": MultiHotField} if fields else {}
        assert (read(path, custom_fields=custom)[0] == features.numpy()).all()


def test_it_says_what_it_took(tmp_path, capfd):
    write((IMAGES, IDS), tmp_path / "a.beton")
    out, err = capfd.readouterr()
    assert "Writing 230 examples" in out
    assert "image = RGBImageField('raw'), label = IntField" in out
    assert "230/230" in err
    write((IMAGES, IDS), tmp_path / "a.beton", progress=False)
    assert capfd.readouterr() == ("", "")


# Two examples that are right, the third, and words of the refusal
IMAGE, SEVERAL = (IMAGES[0], 1), (IMAGES[0], [0, 1])
WRONG = {
    "not whole": (IMAGE, (IMAGES[0], 2.5), "label to be int64, as its field, .* fit: 2.5"),
    "an array": (IMAGE, SEVERAL, r"label to have shape \(\), .* but got \(2,\)"),
    "text": (IMAGE, (IMAGES[0], "three"), "label to be an image, a number"),
    "too large": (IMAGE, (IMAGES[0], 2**63), "label to be int64, .* fit: 9223372036854775808"),
    "another shape": (SEVERAL, (IMAGES[0], [1]), r"shape \(2,\), as its field, but got"),
    "another dtype": (SEVERAL, (IMAGES[0], [0.5, 1]), "int64, as its field, but got float"),
    "ragged": (SEVERAL, (IMAGES[0], [[1], [0, 1]]), "label to be numbers, but got"),
    "float": (IMAGE, (IMAGES[0].astype(np.float32), 1), "float32 of shape .* NDArrayField"),
    "channels first": (IMAGE, (IMAGES[0].transpose(2, 0, 1), 1), r"transpose\(1, 2, 0\)"),
    "empty": (IMAGE, (IMAGES[0, :0], 1), r"uint8 of shape \(0, 5, 3\)"),
    "path": (IMAGE, ("a.png", 1), "to be an image"),
}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_example_is_an_error_and_leaves_nothing(tmp_path, in_time, case, num_workers):
    right, wrong, message = WRONG[case]
    path = tmp_path / "wrong.beton"
    path.write_bytes(b"before")
    with pytest.raises((TypeError, ValueError), match=f"Example 2 of dataset .*{message}"):
        in_time(lambda: write([right, right, wrong], path, num_workers=num_workers, progress=False))
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["wrong.beton"]


class Failing(Numbered):
    def __init__(self, how) -> None:
        super().__init__(250)
        self.how = how

    def __getitem__(self, i):
        return self.how() if i == 249 else (np.zeros((4, 4, 3), np.uint8), 0)


FAILURES = {
    "an error": (lambda: {}["missing"], ValueError, "Example 249 of .* KeyError: 'missing'"),
    "few parts": (lambda: (IMAGES[0],), ValueError, "Example 249 .* Expected 2 parts"),
    "dead": (lambda: os._exit(9), RuntimeError, "Workers that write ended with exit codes"),
    "gone": (lambda: os._exit(0), RuntimeError, "Workers that write ended with exit codes"),
}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_data_set(tmp_path, in_time, case, num_workers):
    how, error, message = FAILURES[case]
    workers = num_workers or int(error is RuntimeError)
    with pytest.raises(error, match=message):
        in_time(lambda: write(Failing(how), tmp_path / "x", num_workers=workers, progress=False))
    assert os.listdir(tmp_path) == []


class Slow(Numbered):
    def __init__(self, begun) -> None:
        super().__init__(10**5)
        self.begun = begun

    def __getitem__(self, i):
        time.sleep(0.001)
        if i:
            self.begun.set()
        return super().__getitem__(i % 64)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_in_mid_write_the_next_one_clears_up(tmp_path, num_workers):
    """Also after its workers, which end with it."""
    context, settings = multiprocessing.get_context("fork"), {"num_workers": num_workers}
    slow = Slow(context.Event())
    child = context.Process(target=write, args=(slow, tmp_path / "x"), kwargs=settings)
    child.start()
    assert slow.begun.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert os.listdir(tmp_path) != ["x"]
    deadline = time.monotonic() + 20
    while os.listdir(tmp_path) != ["x"] and time.monotonic() < deadline:
        write((IMAGES, IDS), tmp_path / "x", progress=False)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        ([], {}, "at least one example"),
        (iter([(1, 2)]), {}, "map-style"),
        ((IMAGES, IDS[:-1]), {}, r"equal length in dataset, but got \[230, 229\]"),
        (([1, 2], [{}, {}]), {}, "Pass fields="),
        ([(1, "a")], {}, "Pass fields="),
        ([(1, 2)], {"fields": {"a": None}}, r"one for each of the 2 parts .* got \['a'\]"),
        ([(1, 2)], {"fields": {"a": None, "é": None}}, "1 to 16 ASCII characters"),
        ([(1, 2)], {"fields": {"a": None, "b" * 17: None}}, "1 to 16 ASCII characters"),
        ([(1, 2)], {"fields": {"a": None, "b": int}}, r"fields\['b'\] to be an FFCV Field"),
        ([(1, 2)], {"page_size": 1000}, "page_size to be a power of 2"),
        ([(torch.zeros(2, dtype=torch.bfloat16), 2)], {}, "to be numbers"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_written(tmp_path, dataset, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        write(dataset, tmp_path / "x.beton", progress=False, **settings)
    assert os.listdir(tmp_path) == []


def test_a_part_larger_than_a_page(tmp_path):
    big = np.zeros((1, 1 << 22), np.uint8)
    with pytest.raises(ValueError, match=r"Example 0 .* pass a page_size above 2097152"):
        write((big, [0]), tmp_path / "x.beton", page_size=1 << 21, progress=False)
    write((big, [0]), tmp_path / "x.beton", page_size=1 << 22, progress=False)
    half = np.zeros((1, 3 << 19), np.uint8)  # two that fit a page each, but not together
    with pytest.raises(ValueError, match=r"Example 0 .* pass a page_size above 2097152"):
        write((half, [0], half), tmp_path / "y.beton", page_size=1 << 21, progress=False)
