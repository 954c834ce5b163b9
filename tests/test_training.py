"""Reading data for training, splits, figures and networks: against naive references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix, random
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import average_precision_score, f1_score, recall_score
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.targets import Targets
from equipoise.training import Settings, read_data, train_run
from equipoise.training.figures import average_precisions, class_figures, label_figures
from equipoise.training.nets import Scaled, augment, make_net, scaling_of
from equipoise.training.splitting import split_ids

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = np.arange(60) % 3
HOT = (RNG.random((60, 3)) < [0.7, 0.4, 0.3]).astype(np.uint8)
PIXELS = RNG.integers(0, 256, (60, 8, 6, 3)).astype(np.uint8)
NAMES = np.array(["cat", "dog", "owl"])
SPLIT = np.repeat([0, 1, 2], 20)
WORDS = np.array(["train", "test", "val"])[SPLIT]
MEDMNIST = {
    f"{part}_{kind}": array[20 * at : 20 * at + 20]
    for at, part in enumerate(("train", "test", "val"))
    for kind, array in (("images", PIXELS), ("labels", Y[:, None]))
}


def csr(prefix, matrix):
    m = csr_matrix(matrix)
    parts = {"data": m.data, "indices": m.indices, "indptr": m.indptr, "shape": np.array(m.shape)}
    return {f"{prefix}_{name}": part for name, part in parts.items()}


# Arrays, shape of an example, counts, names, sizes of training, hold-out and test
GOOD = {
    "x y": ({"x": X, "y": Y}, (5,), [20] * 3, "012", (38, 10, 12)),
    "ids from 1": ({"features": X, "labels": Y + 1}, (5,), [20] * 3, "123", (38, 10, 12)),
    "words": ({"X": X, "target": NAMES[Y]}, (5,), [20] * 3, NAMES, (38, 10, 12)),
    "names": ({"x": X, "y": Y, "class_names": NAMES}, (5,), [20] * 3, NAMES, (38, 10, 12)),
    "split": ({"x": X, "y": Y, "split": SPLIT}, (5,), [20] * 3, "012", (20, 20, 20)),
    "split words": ({"x": X, "y": Y, "split": WORDS}, (5,), [20] * 3, "012", (20, 20, 20)),
    "train test": (
        {"x_train": X[:40], "y_train": Y[:40], "x_test": X[40:], "y_test": Y[40:]},
        *((5,), [20] * 3, "012", (32, 8, 20)),
    ),
    "medmnist": (MEDMNIST, (8, 6, 3), [20] * 3, "012", (20, 20, 20)),
    "channels first": ({"images": PIXELS.transpose(0, 3, 1, 2), "labels": Y}, (8, 6, 3),
                       [20] * 3, "012", (38, 10, 12)),
    "grey": ({"image": PIXELS[..., 0], "label": Y}, (8, 6, 1), [20] * 3, "012", (38, 10, 12)),
    "floats": ({"data": PIXELS / 255, "y": Y}, (8, 6, 3), [20] * 3, "012", (38, 10, 12)),
    "hot": ({"x": X, "Y": HOT}, (5,), HOT.sum(0), "012", (38, 10, 12)),
    "csr": ({**csr("X", X), **csr("Y", HOT), "label_names": NAMES, "split": SPLIT},
            (5,), HOT.sum(0), NAMES, (20, 20, 20)),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_npz(name, tmp_path):
    arrays, shape, counts, names, sizes = GOOD[name]
    np.savez(tmp_path / "data.npz", **arrays)
    data = read_data(tmp_path / "data.npz")
    assert data.inputs.shape == shape
    assert data.targets.counts.tolist() == list(counts)
    assert data.names == list(names)
    assert tuple(map(len, (data.train, data.held, data.test))) == sizes
    assert len({*data.train, *data.held, *data.test}) == 60
    assert str(sizes[2]) in str(data)


def test_parts_keep_inputs_and_labels_together(tmp_path):
    np.savez(tmp_path / "data.npz", **MEDMNIST)
    data = read_data(tmp_path / "data.npz")
    for ids, first in ((data.train, 0), (data.test, 20), (data.held, 40)):
        batches = list(data.inputs.batches(ids, 7))
        assert [len(positions) for _, positions in batches] == [7, 7, 6]
        assert torch.cat([p for _, p in batches]).tolist() == list(range(20))
        images = torch.cat([x for x, _ in batches]).numpy()
        assert np.array_equal(images, PIXELS[first : first + 20])
        assert data.targets_of(ids).labels.tolist() == Y[first : first + 20].tolist()


def photographs(folder, count=12):
    """Tall and wide images, the middle of each in one colour."""
    folder.mkdir(parents=True)
    for i in range(count):
        image = np.zeros((30, 60, 3) if i % 2 else (60, 30, 3), np.uint8)
        centre = (slice(None), slice(15, 45)) if i % 2 else (slice(15, 45), slice(None))
        image[centre] = 10 * i
        Image.fromarray(image).save(folder / f"{i:02}.png")


def test_class_folders(tmp_path):
    for name in ("b", "a", "c"):
        photographs(tmp_path / "all" / name)
    data = read_data(tmp_path / "all", size=8)
    assert (data.inputs.shape, data.names) == ((8, 8, 3), ["a", "b", "c"])
    assert data.targets.counts.tolist() == [12] * 3
    pixels = data.inputs.sample(np.arange(12))[:, 2:6, 2:6]  # without what the scaling blurs
    assert pixels.min((1, 2, 3)).tolist() == pixels.max((1, 2, 3)).tolist() == [*range(0, 120, 10)]
    for part in ("train", "test"):
        for name in ("x", "y"):
            photographs(tmp_path / "parts" / part / name, 5 if part == "train" else 3)
    data = read_data(tmp_path / "parts", size=8, holdout=0.5)
    assert tuple(map(len, (data.train, data.held, data.test))) == (5, 5, 6)


def test_a_table_of_labels(tmp_path):
    photographs(tmp_path / "p")
    files = [f"{i:02}.png" for i in range(12)]
    hot = HOT[:12] | (np.arange(12) < 2)[:, None]

    def table(lines):
        (tmp_path / "p" / "labels.csv").write_text("\n".join(lines))
        return read_data(tmp_path / "p", size=8)

    zero_one = table(["file,cat,dog,owl", *(",".join([f, *map(str, r)]) for f, r in
                                            zip(files, hot, strict=True))])  # fmt: skip
    assert zero_one.targets.matrix.toarray().tolist() == hot.tolist()
    assert zero_one.names == list(NAMES)
    words = [" ".join(NAMES[row > 0]) for row in hot]
    split = ["train"] * 8 + ["test"] * 4
    sets = table(["file,labels,split", *map(",".join, zip(files, words, split, strict=True))])
    assert sets.targets.matrix.toarray().tolist() == hot.tolist()
    assert sets.test.tolist() == [8, 9, 10, 11]
    single = table(["file,kind", *(f"{f},{NAMES[i % 3]}" for i, f in enumerate(files))])
    assert single.targets.labels.tolist() == [0, 1, 2] * 4


def test_arff(tmp_path):
    path = tmp_path / "songs.arff"
    rows = [f"{x[0]:.3f},?,{h[0]},{h[1]}" for x, h in zip(X, HOT, strict=True)]
    head = "@relation 'r: -C -2'\n@attribute t numeric\n@attribute u numeric\n"
    path.write_text(head + "@attribute calm {0,1}\n@attribute sad {0,1}\n@data\n" + "\n".join(rows))
    data = read_data(path)
    assert (data.inputs.shape, data.names) == ((2,), ["calm", "sad"])
    record = train_run(data, tmp_path / "run", Settings(epochs=1, width=8))  # u is missing always
    assert record["state"] == "finished"


BAD = {
    "rows": ({"x": X[:50], "y": Y}, "x and y to be of the same examples, but got 50 and 60"),
    "no inputs": ({"foo": X, "y": Y}, "holds foo, y. Say which with --inputs"),
    "no labels": ({"x": X, "foo": Y, "bar": Y}, "holds x, foo, bar. Say which with --field"),
    "no test labels": ({"x_train": X, "x_test": X, "y_train": Y}, "of the same parts"),
    "infinite": ({"x": np.where(X > 2, np.inf, X), "y": Y}, "some are infinite"),
    "words": ({"x": NAMES[Y], "y": Y}, "x to be features (N, F) or images"),
    "shape": ({"x": np.zeros((60, 2, 2, 3)), "y": Y}, "at least 4 by 4 pixels"),
    "split": ({"x": X, "y": Y, "split": Y + 5}, "Expected split to be one of 0"),
    "split words": ({"x": X, "y": Y, "split": NAMES[Y]}, "train, test or val, but got cat, dog"),
    "all test": ({"x": X, "y": Y, "split": Y * 0 + 1}, "examples to train on"),
    "one class": ({"x": X, "y": Y * 0}, "at least two classes"),
    "csr": ({**csr("X", X), "X_indices": csr_matrix(X).indices + 9, "y": Y}, "hold a CSR matrix"),
    "objects": ({"x": np.array([{}] * 60), "y": Y}, "pickled Python objects"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_npz(name, tmp_path):
    arrays, words = BAD[name]
    np.savez(tmp_path / "data.npz", **arrays)
    fails(tmp_path / "data.npz", tmp_path, words)


def fails(path, tmp_path, words):
    result = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "run")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("equipoise train: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_bad_paths(tmp_path):
    fails(tmp_path / "none.npz", tmp_path, "there is nothing")
    for name, content, words in (
        ("empty.npz", "", "is empty"),
        ("text.npz", "text", "damaged or none"),
        ("text.csv", "text", "ends in .npz, .arff, .beton"),
        ("text.arff", "text", "to be an ARFF file"),
    ):
        (tmp_path / name).write_text(content)
        fails(tmp_path / name, tmp_path, words)
    for name, content, words in (
        ("a/1.jpg", "text", "1.jpg to be an image"),
        ("labels.csv", "file,a,b\nno.jpg,1,0", "there is no"),
        ("labels.csv", "file,a,b\na/1.jpg,1,2", "column 'b' of"),
        ("labels.csv", "file,a,b\na/1.jpg,1", "row 2 has 2"),
        ("labels.csv", "file,a,b\n", "names alone"),
        ("labels.csv", "file,a,split\na/1.jpg,1,never", "train, test or val, but got never"),
    ):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        fails(tmp_path / "folder", tmp_path, words)
    (tmp_path / "bare").mkdir()
    fails(tmp_path / "bare", tmp_path, "but it holds nothing")


def test_splits():
    targets = Targets(np.repeat([0, 1], [900, 100]))
    train, held, test = split_ids(targets, None, holdout=0.25, test=0.1)
    assert [len(part) for part in (train, held, test)] == [675, 225, 100]
    for part in (train, held, test):
        assert np.mean(part >= 900) == pytest.approx(0.1, abs=0.005)
    train, held, test = split_ids(targets, None, limit=100)
    assert [len(part) for part in (train, held, test)] == [64, 16, 20]
    assert sum((part >= 900).sum() for part in (train, held, test)) == 10


def test_figures():
    scores = RNG.integers(0, 9, (200, 4)).astype(float)  # many of the same
    truth = RNG.random((200, 4)) < [0.5, 0.1, 0.02, 0]
    truth[:, 3] = False
    found = average_precisions(scores, truth)
    expected = [average_precision_score(truth[:, c], scores[:, c]) for c in range(3)]
    assert found[:3] == pytest.approx(expected)
    assert np.isnan(found[3])
    chosen = torch.from_numpy(scores > 4)
    labels = label_figures(torch.from_numpy(scores), chosen, Targets(truth))
    f1 = f1_score(truth[:, :3], chosen[:, :3], average="macro", zero_division=0)
    assert labels["macro_f1"] == pytest.approx(f1)
    ratios = (scores > 4).sum(0)[:3] / truth.sum(0)[:3]
    assert labels["median_predicted_over_true"] == pytest.approx(np.median(ratios))

    ids, predicted = RNG.integers(0, 3, 100), RNG.integers(0, 4, 100)
    classes = class_figures(torch.from_numpy(predicted), Targets(ids, 4))
    expected = recall_score(ids, predicted, labels=[0, 1, 2], average=None)
    assert classes["recalls"][:3] == pytest.approx(expected)
    assert classes["lowest_recall"] == pytest.approx(expected.min())
    assert classes["accuracy"] == pytest.approx((ids == predicted).mean())


def test_scaling():
    dense = np.concatenate([X, np.full((60, 1), 3, np.float32)], 1)
    dense[0, 0] = np.nan
    scaled = Scaled(*scaling_of(dense, images=False))(torch.from_numpy(dense)).numpy()
    expected = np.nan_to_num(StandardScaler().fit_transform(dense)).clip(-5, 5)
    assert scaled == pytest.approx(expected, abs=1e-5)
    sparse = random(50, 20, 0.2, "csr", random_state=0, dtype=np.float32)
    scaled = Scaled(*scaling_of(sparse, images=False))(torch.from_numpy(sparse.toarray()))
    expected = TfidfTransformer().fit_transform(sparse).toarray()
    assert scaled.numpy() == pytest.approx(expected, abs=1e-5)
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float()
    scaled = Scaled(*scaling_of(PIXELS, images=True))(pixels)
    assert torch.allclose(scaled, pixels / 127.5 - 1, atol=1e-6)


def test_augmented_images_are_shifted_or_mirrored():
    images = torch.from_numpy(RNG.integers(0, 256, (40, 16, 8, 3)).astype(np.uint8))
    out = augment(images, torch.Generator().manual_seed(0), flip=True)
    kinds = set()
    for before, after in zip(images.numpy(), out.numpy(), strict=True):
        padded = np.pad(before, ((2, 2), (1, 1), (0, 0)), mode="edge")
        able = {
            (top, left, step): padded[top : top + 16, left : left + 8][:, ::step]
            for top in range(5) for left in range(3) for step in (1, -1)
        }  # fmt: skip
        kind = [key for key, value in able.items() if np.array_equal(value, after)]
        assert kind
        kinds.add(kind[0])
    assert len(kinds) > 15
    still = augment(images, torch.Generator().manual_seed(0), flip=False)
    assert not torch.equal(still, out)


@pytest.mark.parametrize("size", [8, 32, 64, 100])
def test_the_network_takes_any_size(size):
    net = make_net("cnn", [size, size, 3], 4, 4, "image", False).eval()
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 4)


def test_torchvisions_networks():
    net = make_net("squeezenet1_1", [64, 64, 1], 4, 1, "image", False).eval()
    assert net(torch.zeros(2, 1, 64, 64)).shape == (2, 4)
    with pytest.raises(ValueError, match="of torchvision such as resnet18, but got 'what'"):
        make_net("what", [64, 64, 3], 4, 1, "image", False)


@pytest.mark.ffcv
def test_beton(tmp_path):
    from equipoise.ffcv import MultiHotField, write

    write((PIXELS, Y), tmp_path / "images.beton", progress=False)
    data = read_data(tmp_path / "images.beton")
    assert (data.inputs.shape, data.targets.counts.tolist()) == ((8, 6, 3), [20] * 3)
    pixels = torch.cat([x.clone() for x, _ in data.inputs.batches(data.held, 7)])
    assert np.array_equal(pixels.numpy(), PIXELS[data.held])
    settings = Settings("inverse-frequency", epochs=2, width=4)

    def stop(now):
        if (now.epoch, now.batch) == (1, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(data, tmp_path / "stopped", settings, progress=stop)
    resumed = train_run(data, tmp_path / "stopped", settings, resume=True)
    assert resumed["results"] == train_run(data, tmp_path / "whole", settings)["results"]

    fields = {"features": None, "label": MultiHotField(3)}
    write((X, HOT), tmp_path / "labels.beton", fields, progress=False)
    data = read_data(tmp_path / "labels.beton")
    assert np.array_equal(data.inputs.sample(data.test), X[data.test])
    record = train_run(data, tmp_path / "labels", Settings(epochs=1, width=8))
    assert record["multilabel"]
    with pytest.raises(ValueError, match="images or arrays in 'z' beside its labels"):
        read_data(tmp_path / "labels.beton", inputs="z")
    (tmp_path / "text.beton").write_text("text")
    fails(tmp_path / "text.beton", tmp_path, "FFCV file")
