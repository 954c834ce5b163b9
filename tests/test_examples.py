"""The examples run from the command line and leave what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import recall_score

from examples import harness

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
    images = (
        rng.integers(0, 120, (150, 16, 16, 3), np.uint8)
        + (40 * labels).astype(np.uint8)[:, None, None, None]
    )
    data = tmp_path / "blocks.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images[:60], y_test=labels[:60])
    out = tmp_path / "run"
    printed = run(
        *("examples/cifar.py", "--data", str(data), "--loader", loader, "--epochs", "2"),
        *("--method", "equal-recall", "recall-power", "--jobs", "1", "--out", str(out)),
    )
    record = json.loads((out / "results.json").read_text())
    assert [r["method"] for r in record["results"]] == [
        "plain",
        "equal-recall",
        "recall-power",
    ]
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
    printed = run(
        "examples/groups.py", "--epochs", "1", "--seeds", "1", "--method", "JTT", "Balancer"
    )
    lines = [line.split() for line in printed.splitlines()[1:]]
    assert [line[0] for line in lines] == ["JTT", "Balancer"]
    assert all(0 <= float(line[-7]) <= float(line[-5]) <= 1 for line in lines)  # worst, mean


@pytest.mark.parametrize("form", ["grey", "channels first", "floats", "names"])
def test_arrays_as_people_have_them(form, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    y = np.arange(40) % 4
    arrays = {
        "grey": {"x_train": x[..., 0], "y_train": y[:, None]},
        "channels first": {
            "x_train": x.transpose(0, 3, 1, 2),
            "y_train": y,
            "classes": list("abcd"),
        },
        "floats": {"x_train": x / 255.0, "y_train": y},
        "names": {"x_train": x, "y_train": np.array(["a", "b", "c", "d"])[y]},
    }[form]
    np.savez(tmp_path / "data.npz", **arrays)
    data = harness.load_images(str(tmp_path / "data.npz"))
    images, labels = data["train"]
    assert images.dtype == np.uint8
    assert images.shape == (32, 8, 8, 3)
    assert np.bincount(labels).tolist() == [8] * 4
    assert data["classes"] == (list("0123") if form in ("grey", "floats") else list("abcd"))
    if form in ("channels first", "names"):
        assert {image.tobytes() for image in images} <= {image.tobytes() for image in x}


def test_a_labels_file_with_ids(tmp_path):
    for i in range(20):
        Image.new("RGB", (10, 10), (10 * i, 0, 0)).save(tmp_path / f"{i:03}.png")
    rows = [f"{i:03},{'odd' if i % 2 else 'even'}" for i in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *rows]))
    data = harness.load_images(str(tmp_path), size=10)
    images, labels = (
        np.concatenate(pair) for pair in zip(data["train"], data["test"], strict=True)
    )
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
    rng = np.random.default_rng(0)
    parts = {"train": 8, "val": 4, "test": 20}
    labels = {
        part: rng.choice(4, (n, 16, 16), p=[0.6, 0.3, 0.05, 0.05]) for part, n in parts.items()
    }
    arrays = {f"y_{part}": y.astype(np.uint8) for part, y in labels.items()}
    for part, y in labels.items():
        arrays[f"x_{part}"] = np.repeat((60 * y)[..., None], 3, axis=3).astype(np.uint8)
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
