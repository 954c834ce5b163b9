"""examples/multilabel.py runs from the command line and reads what it says it reads."""

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

from examples.labels import collages, load_data, scaled
from examples.multilabel import make_balancer, make_loader, train

ROOT = Path(__file__).parents[2]


def write_npz(path: Path, x: sp.csr_matrix, y: sp.csr_matrix, split: np.ndarray | None) -> None:
    parts = {
        f"{key}_{part}": value
        for key, matrix in (("X", x), ("Y", y))
        for part, value in (
            ("data", matrix.data),
            ("indices", matrix.indices),
            ("indptr", matrix.indptr),
            ("shape", np.array(matrix.shape)),
        )
    }
    parts |= {"label_names": np.array([f"label {i}" for i in range(y.shape[1])])}
    np.savez(path, **parts, **({} if split is None else {"split": split}))


def some_data(examples=240):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((examples, 6)).astype(np.float32)
    y = (x[:, :3] + rng.standard_normal((examples, 3)) > [0, 1, 2]).astype(np.uint8)
    return sp.csr_matrix(x), sp.csr_matrix(y)


def run(data: Path, out: Path, *options: str) -> tuple[list[dict], str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "examples/multilabel.py", "--data", str(data)]
        + ["--out", str(out), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / f"{data.stem}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((out / f"{data.stem}.json").read_text())["results"], done.stdout


def test_command_line(tmp_path):
    data = tmp_path / "some.npz"
    write_npz(data, *some_data(), split=(np.arange(240) % 4 == 0).astype(np.uint8))
    results, printed = run(data, tmp_path, "--epochs", "2")
    methods = [r["method"] for r in results]
    assert methods[:4] == ["plain", "pos-weight", "focal", "asymmetric"]
    assert methods[-1] == "equal-recall"
    for result in results:
        assert result["method"] in printed
        assert len(result["ratios_half"]) == 3
        assert 0 < result["auprc_macro"] <= 1


TRAINING = {"epochs": 3, "lr": 3e-3, "holdout": 0.25, "device": "cpu", "net": "small", "width": 4}

# what is learnt from of what is drawn
MINING = {
    "hard-negatives": None,
    "hardest-examples": 0.5,
    "selective-backprop": 0.5,
    "loss-pruning": 1,
}


@pytest.mark.parametrize("mining", MINING)
def test_mining(mining):
    x, y = some_data()
    data = {"x": x.toarray(), "y": y, "train": np.arange(192), "test": np.arange(192, 240)}
    settings = TRAINING | {"mining": mining, "batch_size": 64}
    result = train("plain", 0, data, settings)
    rows = [row["mining"] for row in result["history"]]
    assert [row["num_seen"] > 0 for row in rows] == [True] * 3
    if MINING[mining] is not None:
        assert rows[-1]["share_kept"] == pytest.approx(MINING[mining], abs=0.02)
    if mining != "loss-pruning":
        assert rows[-1]["mean_loss_kept"] > rows[-1]["mean_loss_dropped"] > 0


@pytest.mark.ffcv
@pytest.mark.parametrize("field", ["features", "image"])
def test_a_beton(field, tmp_path):
    """What FFCV's loader gives is what the arrays hold, in the balancer's order."""
    from equipoise.ffcv import MultiHotField, write

    rng, (x, y) = np.random.default_rng(0), some_data()
    x = x.toarray() if field == "features" else rng.integers(0, 255, (240, 8, 8, 3), np.uint8)
    path = tmp_path / "some.beton"
    fields = {field: None, "label": MultiHotField(3)}
    write((x, y.toarray()), path, fields, progress=False)
    data = load_data(str(path), size=8)
    assert len(data["train"]) == 180
    assert (data["y"] != y).nnz == 0
    settings = {"batch_size": 50, "size": 8, "threads": 1}
    balancer = make_balancer("balancer", data["y"][data["train"]], seed=3)
    loaders = (make_loader(d, data["train"], settings, balancer) for d in (data, data | {"x": x}))
    ours, theirs = ([[part.clone() for part in batch] for batch in loader] for loader in loaders)
    assert len(ours) == len(theirs) == 4
    for one, other in zip(ours, theirs, strict=True):
        for part, expected in zip(one, other, strict=True):
            assert torch.equal(part, expected)
    settings |= TRAINING | {"mining": "selective-backprop"}
    result = train("equal-recall", 0, data, settings)
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
def test_a_folder_of_images(tmp_path, columns):
    from PIL import Image

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


def test_an_arff(tmp_path):
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
    assert np.allclose(scaled(10 * x, np.arange(200)), dense, atol=1e-4)
    words = sp.csr_matrix((np.random.default_rng(0).random((50, 40)) < 0.1).astype(np.float32))
    found = scaled(words, np.arange(40))
    assert sp.issparse(found)
    assert np.allclose(found.multiply(found).sum(1)[np.diff(words.indptr) > 0], 1)
