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

from examples.multilabel import collages, load_data, prepared

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


def test_command_line(tmp_path):
    data = tmp_path / "some.npz"
    write_npz(data, *some_data(), split=(np.arange(240) % 4 == 0).astype(np.uint8))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "examples/multilabel.py", "--data", str(data)]
        + ["--epochs", "2", "--jobs", "1", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "some.json").read_text())["results"]
    methods = [r["method"] for r in results]
    assert methods[:4] == ["plain", "pos-weight", "focal", "asymmetric"]
    assert methods[-1] == "picked"
    best = max((r for r in results if r["method"] in ("plain", "balancer", "focused")),
               key=lambda r: r["holdout_macro_auprc"])  # fmt: skip
    assert results[-1]["of"] == best["method"]
    assert results[-1]["auprc_macro"] == best["auprc_macro"]
    for result in results:
        assert result["method"] in done.stdout
        assert len(result["ratios_half"]) == 3
        assert 0 < result["auprc_macro"] <= 1
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")


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
    (x, y), (x_test, y_test) = data["train"], data["test"]
    assert data["labels"] == ["cat", "dog"]
    assert x.shape[1:] == (16, 16, 3)
    assert len(x) + len(x_test) == 12
    assert y.sum() + y_test.sum() == labels.sum()


def test_an_arff(tmp_path):
    lines = ["@relation 'some: -C 2'", "@attribute a {0,1}", "@attribute b {0,1}"]
    lines += ["@attribute x numeric", "@data", *[f"{i % 2},{i % 3 % 2},{i}" for i in range(20)]]
    (tmp_path / "some.arff").write_text("\n".join(lines) + "\n")
    data = load_data(str(tmp_path / "some.arff"), size=16)
    assert data["labels"] == ["a", "b"]
    assert data["train"][0].shape == (15, 1)
    assert data["test"][1].shape == (5, 2)


def test_the_row_id_of_genbase_is_dropped(tmp_path):
    x, y = some_data()
    write_npz(tmp_path / "genbase.npz", x, y, split=None)
    assert load_data(str(tmp_path / "genbase.npz"), size=16)["train"][0].shape[1] == 5


def test_features_are_scaled_by_the_training_rows():
    x, _ = some_data()
    train, test = prepared(10 * x[:200] + x[:200], x[200:])
    assert np.allclose(train.std(0), 1, atol=0.05)
    assert test.shape == (40, 6)
    words = sp.csr_matrix((np.random.default_rng(0).random((50, 40)) < 0.1).astype(np.float32))
    train, _ = prepared(words, words)
    assert sp.issparse(train)
    assert np.allclose(train.multiply(train).sum(1)[np.diff(words.indptr) > 0], 1)
