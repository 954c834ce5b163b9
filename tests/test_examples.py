"""The examples run from the command line, read what they say they read, leave what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from PIL import Image
from sklearn.metrics import recall_score

from examples import harness
from examples.labels import collages, load_data, scaled
from examples.multilabel import make_balancer, make_loader, train
from tests.test_cli import csr

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("loader", ["torch", pytest.param("ffcv", marks=pytest.mark.ffcv)])
def test_cifar_on_an_npz(loader, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    noise = rng.integers(0, 120, (150, 16, 16, 3), np.uint8)
    images = noise + (40 * labels).astype(np.uint8)[:, None, None, None]
    data = tmp_path / "blocks.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images[:60], y_test=labels[:60])
    out = tmp_path / "run"
    printed = run(
        *("examples/cifar.py", "--data", str(data), "--loader", loader, "--epochs", "2"),
        *("--method", "equal-recall", "recall-power", "--jobs", "1", "--out", str(out)),
    )
    record = json.loads((out / "results.json").read_text())
    methods = [r["method"] for r in record["results"]]
    assert methods == ["plain", "equal-recall", "recall-power"]
    assert record["settings"]["flip"] is False
    for result in record["results"]:
        assert len(result["recalls"]) == len(result["recalls_decided"]) == 3
        assert len(result["history"]) == 2
        assert result["method"] in printed
    assert (out / "recalls.png").read_bytes().startswith(b"\x89PNG")
    assert "Sampling noise alone leaves" in printed


def test_cifar_on_a_folder_of_images(tmp_path):
    """Without a test set, a fifth is one; a broken image is left out."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 130)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(level, level + 120, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "dark" / "broken.png").write_bytes(b"no image")
    command = ["examples/cifar.py", "--data", str(tmp_path / "data"), "--size", "16"]
    printed = run("-W", "ignore", *command, "--epochs", "1", "--method", "balancer", "--jobs", "1",
                  "--out", str(tmp_path / "run"))  # fmt: skip
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["classes"] == ["dark", "light"]
    assert "24 test images of 2 classes" in printed


def test_groups_on_digits():
    once = ("--epochs", "1", "--seeds", "1")
    printed = run("examples/groups.py", *once, "--method", "JTT", "Balancer")
    lines = [line.split() for line in printed.splitlines()[1:]]
    assert [line[0] for line in lines] == ["JTT", "Balancer"]
    assert all(0 <= float(line[-7]) <= float(line[-5]) <= 1 for line in lines)  # worst, mean


X = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
Y = np.arange(40) % 4
FORMS = {
    "grey": {"x_train": X[..., 0], "y_train": Y[:, None]},
    "channels first": {"x_train": X.transpose(0, 3, 1, 2), "y_train": Y, "classes": [*"abcd"]},
    "floats": {"x_train": X / 255.0, "y_train": Y},
    "names": {"x_train": X, "y_train": np.array([*"abcd"])[Y]},
}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_as_people_have_them(form, tmp_path):
    np.savez(tmp_path / "data.npz", **FORMS[form])
    data = harness.load_images(str(tmp_path / "data.npz"))
    images, labels = data["train"]
    assert images.dtype == np.uint8
    assert images.shape == (32, 8, 8, 3)
    assert np.bincount(labels).tolist() == [8] * 4
    assert data["classes"] == [*("0123" if form in ("grey", "floats") else "abcd")]
    if form in ("channels first", "names"):
        assert {image.tobytes() for image in images} <= {image.tobytes() for image in X}


def test_a_labels_file_with_ids(tmp_path):
    for i in range(20):
        Image.new("RGB", (10, 10), (10 * i, 0, 0)).save(tmp_path / f"{i:03}.png")
    rows = [f"{i:03},{'odd' if i % 2 else 'even'}" for i in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *rows]))
    data = harness.load_images(str(tmp_path), size=10)
    images, labels = map(np.concatenate, zip(data["train"], data["test"], strict=True))
    assert data["classes"] == ["even", "odd"]
    assert (images[:, 0, 0, 0] // 10 % 2).tolist() == labels.tolist()


def test_augmented_images_are_shifts_and_mirror_images():
    image = torch.arange(1, 65, dtype=torch.uint8).reshape(1, 8, 8, 1).expand(200, 8, 8, 3)
    padded = np.pad(image[0, :, :, 0].numpy(), 1, constant_values=128)
    shifts = {padded[i : i + 8, j : j + 8].tobytes() for i in range(3) for j in range(3)}
    mirrored = {np.frombuffer(s, np.uint8).reshape(8, 8)[:, ::-1].tobytes() for s in shifts}
    for flip, possible in ((False, shifts), (True, shifts | mirrored)):
        out = harness.augment(image, torch.Generator().manual_seed(0), flip)
        assert {o[:, :, 0].contiguous().numpy().tobytes() for o in out} == possible


def test_recalls_are_scikit_learns():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 4, (2, 100))
    found = harness.recalls_of(torch.from_numpy(guess), truth, 5)
    assert found[:4] == pytest.approx(recall_score(truth, guess, average=None))
    assert np.isnan(found[4])


def test_the_noise_floor_is_what_binomial_recalls_show():
    rng = np.random.default_rng(0)
    n, m = np.array([50, 200]), np.array([100, 100])
    apart = rng.binomial(n, 0.7, (20_000, 2)) / n - rng.binomial(m, 0.7, (20_000, 2)) / m
    assert harness.noise_floor(0.7, n, m) == pytest.approx(np.sqrt((apart**2).mean()), rel=0.03)


def doubled(method, seed, recalls):
    return {"seed": seed, "holdout_recalls": [seed], "recalls": recalls}


def test_runs_wait_for_plain():
    todo = [("after", 0), ("plain", 0), ("after", 1), ("other", 0)]
    runs = list(harness.run_all(doubled, todo, after_plain={"after"}, plain={1: [7]}))
    found = {(method, seed): result["recalls"] for method, seed, result in runs}
    assert found == {("after", 0): [0], ("plain", 0): None, ("after", 1): [7], ("other", 0): None}
    with pytest.raises(ValueError, match='Expected "plain" to be among the methods'):
        list(harness.run_all(doubled, [("after", 0)], after_plain={"after"}))


def test_segmentation_on_an_npz_is_taken_up_again(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for part, n in (("train", 8), ("val", 4), ("test", 20)):
        y = rng.choice(4, (n, 16, 16), p=[0.6, 0.3, 0.05, 0.05]).astype(np.uint8)
        arrays |= {f"y_{part}": y, f"x_{part}": np.repeat((60 * y)[..., None], 3, axis=3)}
    np.savez(tmp_path / "blocks.npz", **arrays)
    command = (
        *("examples/segmentation.py", "--data", str(tmp_path / "blocks.npz"), "--void", "3"),
        *("--epochs", "1", "--width", "4", "--out", str(tmp_path / "run"), "--method"),
    )
    printed = run(*command, "plain", "balancer")
    assert "mean IoU" in printed
    found = json.loads((tmp_path / "run" / "plain-0.json").read_text())
    assert [len(found[way]) for way in found] == [4, 4, 4]
    assert (tmp_path / "run" / "scene.png").exists()
    before = (tmp_path / "run" / "plain-0.pt").stat().st_mtime_ns
    run(*command, "plain")
    assert (tmp_path / "run" / "plain-0.pt").stat().st_mtime_ns == before


def test_pasted_digits_are_uneven_and_of_one_size():
    scenes = harness.load_scenes("digits", 11)
    pixels = np.bincount(scenes["train"][1].flatten(), minlength=11)
    assert (np.diff(pixels[1:]) < 0).sum() >= 7
    assert pixels[10] > 100
    assert scenes["test"][0].shape == (200, 3, 64, 64)


def test_streaming_from_shards_of_digits(tmp_path):
    pytest.importorskip("webdataset")
    out = tmp_path / "figures.json"
    run(*("examples/streaming.py", "--epochs", "1", "--seeds", "1", "--out", str(out)))
    methods = {result["method"]: result for result in json.loads(out.read_text())}
    assert methods.keys() == {"plain", "indexed", "stream"}
    assert methods["stream"]["price"]["read"] == pytest.approx(1, abs=0.2)


def some_data(examples=240):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((examples, 6)).astype(np.float32)
    y = (x[:, :3] + rng.standard_normal((examples, 3)) > [0, 1, 2]).astype(np.uint8)
    return sp.csr_matrix(x), sp.csr_matrix(y)


def test_multilabel_on_an_npz(tmp_path):
    x, y = some_data()
    split = (np.arange(240) % 4 == 0).astype(np.uint8)
    data, names = tmp_path / "some.npz", np.array(["a", "b", "c"])
    np.savez(data, **csr("X", x), **csr("Y", y), label_names=names, split=split)
    command = ("-W", "ignore", "examples/multilabel.py", "--data", str(data), "--epochs", "2")
    printed = run(*command, "--out", str(tmp_path))
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((tmp_path / "some.json").read_text())["results"]
    methods = [r["method"] for r in results]
    assert methods[:4] == ["plain", "pos-weight", "focal", "asymmetric"]
    assert methods[-1] == "equal-recall"
    for result in results:
        assert result["method"] in printed
        assert len(result["ratios_half"]) == 3
        assert 0 < result["auprc_macro"] <= 1


TRAINING = {"epochs": 3, "lr": 3e-3, "holdout": 0.25, "device": "cpu", "net": "small", "width": 4}


@pytest.mark.parametrize(
    ("mining", "share_kept"),
    [
        ("hard-negatives", None),
        ("hardest-examples", 0.5),
        ("selective-backprop", 0.5),
        ("loss-pruning", 1),
    ],
)
def test_multilabel_mines(mining, share_kept):
    x, y = some_data()
    data = {"x": x.toarray(), "y": y, "train": np.arange(192), "test": np.arange(192, 240)}
    settings = TRAINING | {"mining": mining, "batch_size": 64}
    result = train("plain", 0, data, settings)
    rows = [row["mining"] for row in result["history"]]
    assert [row["num_seen"] > 0 for row in rows] == [True] * 3
    if share_kept:
        assert rows[-1]["share_kept"] == pytest.approx(share_kept, abs=0.02)
    if mining != "loss-pruning":
        assert rows[-1]["mean_loss_kept"] > rows[-1]["mean_loss_dropped"] > 0


@pytest.mark.ffcv
@pytest.mark.parametrize("field", ["features", "image"])
def test_multilabel_on_a_beton(field, tmp_path):
    """What FFCV's loader gives is what the arrays hold, in the balancer's order."""
    from equipoise.ffcv import MultiHotField, write

    rng, (x, y) = np.random.default_rng(0), some_data()
    x = x.toarray() if field == "features" else rng.integers(0, 255, (240, 8, 8, 3), np.uint8)
    path = str(tmp_path / "some.beton")
    write((x, y.toarray()), path, {field: None, "label": MultiHotField(3)}, progress=False)
    data = load_data(path, size=8)
    assert len(data["train"]) == 180
    assert (data["y"] != y).nnz == 0
    settings = TRAINING | {"batch_size": 50, "size": 8, "threads": 1}
    balancer = make_balancer("balancer", data["y"][data["train"]], seed=3)
    loaders = (make_loader(d, data["train"], settings, balancer) for d in (data, data | {"x": x}))
    ours, theirs = ([part.clone() for batch in loader for part in batch] for loader in loaders)
    assert len(ours) == len(theirs) == 4 * 3  # batches of inputs, labels, ids
    assert all(map(torch.equal, ours, theirs))
    result = train("equal-recall", 0, data, settings | {"mining": "selective-backprop"})
    assert 0 < result["auprc_macro"] <= 1


def test_collages_have_one_to_four_digits_of_uneven_frequency():
    images, labels = collages(500, 0)
    per_image = np.asarray(labels.sum(1)).ravel()
    counts = np.asarray(labels.sum(0)).ravel()
    assert images.shape == (500, 24, 24, 3)
    assert set(per_image) == {1, 2, 3, 4}
    assert counts[0] > 5 * counts[9] > 0
    assert (images.max((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("columns", ["one a label", "one of names"])
def test_multilabel_on_a_folder_of_images(tmp_path, columns):
    labels = np.array([[1, 0], [1, 1]] * 6)
    rows = ["file,cat,dog"] if columns == "one a label" else ["file,labels"]
    for i, (cat, dog) in enumerate(labels):
        Image.new("RGB", (20, 10), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
        names = "cat dog" if dog else "cat"
        rows.append(f"{i}.png,{cat},{dog}" if columns == "one a label" else f"{i}.png,{names}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    data = load_data(str(tmp_path), size=16)
    assert data["labels"] == ["cat", "dog"]
    assert data["x"].shape == (12, 16, 16, 3)
    assert data["x"][:, 0, 0, 0].tolist() == [20 * i for i in range(12)]
    assert np.array_equal(data["y"].toarray(), labels)
    assert len(data["train"]) == 9
    assert sorted([*data["train"], *data["test"]]) == list(range(12))


def test_multilabel_on_an_arff(tmp_path):
    lines = ["@relation 'some: -C 2'", "@attribute a {0,1}", "@attribute b {0,1}"]
    lines += ["@attribute x numeric", "@data", *[f"{i % 2},{i % 3 % 2},{i}" for i in range(20)]]
    (tmp_path / "some.arff").write_text("\n".join(lines) + "\n")
    data = load_data(str(tmp_path / "some.arff"), size=16)
    assert data["labels"] == ["a", "b"]
    assert data["x"].shape == (20, 1)
    assert data["y"].shape == (20, 2)
    assert len(data["test"]) == 5


def test_features_are_scaled_by_the_training_rows():
    x, _ = some_data()
    dense = scaled(x, np.arange(200))
    assert dense.dtype == np.float32
    assert np.allclose(dense[:200].std(0), 1, atol=0.05)
    words = sp.csr_matrix((np.random.default_rng(0).random((50, 40)) < 0.1).astype(np.float32))
    found = scaled(words, np.arange(40))
    assert sp.issparse(found)
    assert np.allclose(found.multiply(found).sum(1)[np.diff(words.indptr) > 0], 1)
