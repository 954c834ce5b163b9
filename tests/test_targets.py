from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from equipoise import Targets


class Dataset:
    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        ([], ValueError, "at least one example"),
        (np.zeros((0, 3)), ValueError, "at least one example"),
        ([0, float("nan")], ValueError, "whole class ids, but got nan at position 1"),
        ([0, float("inf")], ValueError, "whole class ids, but got inf"),
        ([0, 1.5], ValueError, "whole class ids, but got 1.5 at position 1"),
        ([0, -1, -3], ValueError, "from 0 up, but got -1 at position 1, 2"),
        ([[0], [1, 2]], TypeError, "rows of different lengths.*from_label_ids"),
        (["cat", None], TypeError, "numbers or strings, but got None at position 1"),
        ([0, None], TypeError, "numbers or strings, but got None at position 1"),
        ([["a", "b"], ["c", "d"]], TypeError, r"strings of shape \(2, 2\).*from_label_ids"),
        (["NA", float("nan")], TypeError, "got nan at position 1.*keep_default_na=False"),
        (pd.Series([["a"], ["b", "c"]]), TypeError, "different lengths.*from_label_ids"),
        (pd.Series(["a", None]).astype("category"), ValueError, "a label, but got none at pos"),
        (pd.Series([1, None], dtype="Int64"), ValueError, "whole class ids, but got nan at pos"),
        (pd.Series(["a", None]), TypeError, "numbers or strings"),
        (np.array(["2020-01-01"], "datetime64[D]"), TypeError, "numbers or strings"),
        (None, TypeError, "numbers"),
        ([[0, 2]], ValueError, "0 or 1, but got 2"),
        ([[0.0, float("nan")]], ValueError, "0 or 1, but got nan"),
        ([[3], [4]], ValueError, "ravel"),
        (np.zeros((2, 2, 2)), ValueError, "shape"),
        (5, ValueError, "shape"),
        ([0, 1, 3 * 10**8], ValueError, r"got 300000000 as the largest.*np\.unique.*num_classes="),
        ([2 * 10**9], ValueError, r"large gaps.*np\.unique.*num_classes="),
        ([2**40], ValueError, "large gaps"),
        ([[1, -1]], ValueError, "0 or 1, but got -1.*unknown=-1"),
        ([[5, 700]], ValueError, r"0 or 1, but got 5.*Targets\.from_counts"),
    ],
)
def test_bad_labels_are_named(labels, error, words):
    with pytest.raises(error, match=f"Expected .*{words}"):
        Targets(labels)


FROM_IDS, FROM_COUNTS = Targets.from_label_ids, Targets.from_counts
NAMES = "among the 2 names, but got 'c' at position 1"


@pytest.mark.parametrize(
    ("make", "arguments", "settings", "words"),
    [
        *((Targets, ([0, 1], c), {}, "num_classes") for c in (0, -1, 1.5, True, "3", 2**31)),
        (Targets, ([0, 1, -1],), {"unknown": -1}, "unknown only with"),
        (Targets, ([[0, 1]],), {"unknown": 0}, "unknown to be another value than 0 and 1"),
        (Targets, ([0, 1],), {"names": ["a", "a"]}, "names to differ"),
        (Targets, ([0, 2],), {"names": ["a", "b"]}, ".*below num_classes=2, but got 2"),
        (Targets, ([0, 5], 2), {}, ".*num_classes=2, but got 5 at position 1"),
        (Targets, (["a", "c"],), {"names": ["a", "b"]}, f".*{NAMES}"),
        (Targets, (["a", "b"], 3), {}, ".*names of all 3 classes, but got 2: 'a', 'b'"),
        (Targets, ([[0, 1]],), {"names": ["a"]}, ".*names of all 2 classes, but got 1"),
        (Targets, ([[0, 1]], 3), {}, ".*the 2 columns of labels, but got 3"),
        (FROM_IDS, ([[0, 1]],), {}, "num_classes or names"),
        (FROM_IDS, ([[3]], 3), {}, ".*below num_classes=3"),
        (FROM_IDS, ([[1, 1]], 3), {}, ".*duplicate"),
        *(
            (Targets.from_class_counts, (counts,), {}, "")
            for counts in ([-1, 2], [0.5, 1], [0, 0], [float("nan")], [[1, 2]], [])
        ),
        *(
            (Targets.from_class_counts, ([6, 4], n), {}, "num_examples .* largest count 6")
            for n in (5, 6.5, True)
        ),
        *(
            (FROM_COUNTS, (counts,), {}, "counts to be")
            for counts in ([[-1, 2]], [[0.5, 1]], [[float("nan"), 1]], [1, 2])
        ),
    ],
)
def test_bad_arguments_are_named(make, arguments, settings, words):
    with pytest.raises(ValueError, match=f"Expected {words}"):
        make(*arguments, **settings)


class Unread(torch.utils.data.Dataset):
    """A data set without `.targets`, whose examples are dear."""

    def __len__(self):
        return 10**9

    def __getitem__(self, index):
        raise AssertionError("an example was read")


@pytest.mark.parametrize("data", [Unread(), Subset(Unread(), [1, 2])], ids=["whole", "subset"])
def test_a_data_set_without_targets_is_refused_unread(data):
    with pytest.raises(TypeError, match=r"Expected .* Unread without\. Pass its labels"):
        Targets(data)


def containers(ids: list[int]):
    """The same class ids in every container."""
    array = np.array(ids)
    yield from (ids, tuple(ids), array, array.astype(np.uint16), array.astype(float))
    yield from (array[:, None][:, 0], np.array(ids, object), torch.tensor(ids))
    yield torch.tensor(ids, dtype=torch.bfloat16)
    yield from (pd.Series(ids), pd.Series(ids, dtype="Int64"), pd.Index(ids))
    yield from (Dataset(ids), Dataset(torch.tensor(ids)))
    yield Subset(Dataset([*ids, 1]), range(len(ids)))
    yield TensorDataset(torch.zeros(len(ids), 3), torch.tensor(ids))
    yield ConcatDataset([Dataset(ids[:1]), Dataset(ids[1:])]) if len(ids) > 1 else Dataset(ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_class_ids_are_the_same_whatever_holds_them(ids):
    expected = np.bincount(ids, minlength=8).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [Targets(labels, num_classes=8) for labels in containers(ids)]
    for targets in found:
        assert targets.labels.tolist() == ids
        assert targets.counts.tolist() == targets.support.tolist() == expected
        assert targets.empty.tolist() == [c for c in range(8) if c not in ids]
        members = [targets.members[a:b].tolist() for a, b in pairwise(targets.starts)]
        assert members == [[i for i, y in enumerate(ids) if y == c] for c in range(8)]
        assert targets.labels.dtype == np.uint8
        assert targets.checksum == found[0].checksum
        assert not targets.multilabel
        assert not targets.elements


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["cat", "dog", "emu", "", "é"]), min_size=1, max_size=30))
def test_strings_are_the_same_whatever_holds_them(words):
    names = sorted(set(words))
    ids = [names.index(word) for word in words]
    series = pd.Series(words)
    held = [words, np.array(words), np.array(words, object), np.char.encode(words, "utf-8")]
    held += [series, series.astype("category"), pd.Categorical(words), Dataset(words)]
    for labels in held:
        targets = Targets(labels)
        assert targets.names == names
        assert targets.labels.tolist() == ids
    reordered = Targets(series.astype("category"), names=names[::-1])
    assert [reordered.names[c] for c in reordered.labels] == words


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_are_the_same_whatever_holds_them(data):
    n, c = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    rows = data.draw(arrays(int, (n, c), elements=st.integers(0, 4)))
    frame = pd.DataFrame(rows, columns=[f"c{j}" for j in range(c)])
    held = [rows, rows.tolist(), rows.astype(float), torch.from_numpy(rows), frame,
            scipy.sparse.csr_matrix(rows), scipy.sparse.csc_array(rows),
            torch.from_numpy(rows).to_sparse()]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that sparse CSR is in beta
        held.append(torch.from_numpy(rows).to_sparse_csr())
        counted = [Targets.from_counts(labels) for labels in held]
    for targets in counted:
        assert targets.matrix.toarray().tolist() == rows.tolist()
        assert targets.counts.tolist() == rows.sum(0).tolist()
        assert targets.support.tolist() == (rows > 0).sum(0).tolist()
        assert targets.elements
        assert not targets.multilabel
    assert counted[4].names == list(frame.columns)
    for labels in (rows, torch.from_numpy(rows).float(), scipy.sparse.csr_matrix(rows)):
        # 0 and 1 stay, 2 is unknown, 3 and 4 are wrong
        if rows.max() > 2:
            with pytest.raises(ValueError, match="0 or 1, but got"):
                Targets(labels, unknown=2)
            continue
        targets = Targets(labels, unknown=2)
        assert targets.counts.tolist() == (rows == 1).sum(0).tolist()
        assert targets.unknown_counts.tolist() == (rows == 2).sum(0).tolist()
        assert targets.matrix.toarray().tolist() == (rows == 1).tolist()


def test_unknown_may_be_nan():
    targets = Targets([[1.0, float("nan")], [0.0, 1.0]], unknown=float("nan"))
    assert (targets.counts.tolist(), targets.unknown_counts.tolist()) == ([1, 1], [0, 1])


@pytest.mark.parametrize("make", [Targets, Targets.from_counts])
@pytest.mark.parametrize("kind", [np.array, scipy.sparse.csr_matrix, torch.tensor])
def test_labels_are_copied(make, kind):
    rows = kind(np.array([[1, 0, 1], [0, 1, 1]], np.uint8))
    targets = make(rows)
    before = targets.matrix.toarray().tolist()
    if isinstance(rows, scipy.sparse.csr_matrix):
        rows.indices[:] = 0
        rows.data[:] = 7
    else:
        rows[:] = 0
    assert targets.matrix.toarray().tolist() == before
    ids = np.array([0, 1, 2], np.uint8)
    targets = Targets(ids)
    ids[:] = 0
    assert targets.labels.tolist() == [0, 1, 2]


def test_names_are_shown():
    with pytest.warns(UserWarning, match=r"no example: 'emu'\. They .* stays 0\.$"):
        targets = Targets(["dog", "cat"], names=["cat", "dog", "emu"])
    assert targets.labels.tolist() == [1, 0]
    assert repr(targets).endswith("3 classes: 'cat', 'dog', 'emu')")
    with pytest.raises(ValueError, match=r"Sampler to have .* these have none: 'emu'"):
        targets.require_every_class("Sampler")
    assert Targets.of(targets, names=["a", "b", "c"]).names == ["a", "b", "c"]
    assert targets.names == ["cat", "dog", "emu"]
    assert Targets.of(targets) is targets
    with pytest.raises(TypeError, match="Expected names to be a list of strings"):
        Targets([0, 1], names="ab")


def test_gaps_name_a_way_that_exists():
    with pytest.warns(UserWarning, match=r"no example: 1, 2, 3, 4, 6.*np\.unique"):
        targets = Targets([0, 5, 9])
    with pytest.raises(ValueError, match=r"names, labels = np\.unique"):
        targets.require_every_class("Balancer")
    names, labels = np.unique([0, 5, 9], return_inverse=True)
    assert Targets(labels, names=names.astype(str)).counts.tolist() == [1, 1, 1]


def test_one_hot_rows_are_said():
    rows = np.eye(4, dtype=int)[np.arange(80) % 4]
    with pytest.warns(UserWarning, match=r"exactly one 1.*labels\.argmax"):
        assert Targets(rows).multilabel
    rows[0] = [1, 1, 0, 0]
    assert Targets(rows).multilabel
    assert Targets(np.ones((80, 1))).multilabel
    assert Targets.from_label_ids([[i % 4] for i in range(80)], 4).multilabel


def test_label_ids():
    hot = [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert Targets.from_label_ids([[0, 2], [], [2]], 3).matrix.toarray().tolist() == hot
    films = Targets.from_label_ids([["Comedy", "Drama"], [], ["Drama"]])
    assert (films.names, films.counts.tolist()) == (["Comedy", "Drama"], [1, 2])
    assert Targets.from_label_ids([["b"]], names=["a", "b"]).counts.tolist() == [0, 1]


def test_class_counts_have_no_index():
    targets = Targets.from_class_counts([6, 4], names=["a", "b"])
    assert (targets.num_examples, targets.num_classes, targets.indexed) == (10, 2, False)
    for use in (targets.require_index, targets.require_single_label):
        with pytest.raises(ValueError, match=r"targets of S to hold .* Pass Targets\(labels\)"):
            use("S")
    with pytest.raises(ValueError, match=r"Pass Targets\(labels\)"):
        _ = targets.members
    several = Targets.from_class_counts([6, 4], 7)
    assert (several.multilabel, several.num_examples) == (True, 7)
    with pytest.warns(UserWarning, match="no example: 1"):
        Targets.from_class_counts([3, 0])


class Named(Dataset):
    """As `ImageFolder`: ids, and the names of the classes."""

    classes = ("ant", "bee", "cow")


def test_names_of_data_sets():
    assert Targets(Named([2, 0, 1])).names == ["ant", "bee", "cow"]
    with pytest.warns(UserWarning, match="no example: 'ant'"):
        assert Targets(Subset(Named([2, 0, 1]), [0, 2])).counts.tolist() == [0, 1, 1]
    assert Targets(Named([3, 2, 1, 0])).names is None  # they do not fit
    assert Targets(ConcatDataset([Named([0, 1]), Named([2])])).counts.tolist() == [1, 1, 1]
    other = Named([0, 1])
    other.classes = ("cow", "ant", "bee")
    with pytest.raises(ValueError, match="Expected the parts of a ConcatDataset to have the same"):
        Targets(ConcatDataset([Named([0, 1]), other]))


def test_image_folder(tmp_path):
    folder = pytest.importorskip("torchvision.datasets").ImageFolder
    for name, images in (("bee", 2), ("ant", 1)):
        (tmp_path / name).mkdir()
        for i in range(images):
            (tmp_path / name / f"{i}.png").touch()
    targets = Targets(folder(tmp_path))
    assert (targets.names, targets.counts.tolist()) == (["ant", "bee"], [1, 2])


def test_hugging_face_columns():
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["ant", "bee"])
    kinds = {"label": label, "tags": [label], "word": datasets.Value("string")}
    features = datasets.Features(kinds)
    rows = {"label": [1, 0, 1], "tags": [[0, 1], [], [1]], "word": ["x", "y", "x"]}
    data = datasets.Dataset.from_dict(rows, features)
    targets = Targets(data["label"])
    assert (targets.names, targets.labels.tolist()) == (["ant", "bee"], [1, 0, 1])
    tags = Targets(data["tags"])
    assert (tags.names, tags.counts.tolist()) == (["ant", "bee"], [1, 2])
    assert Targets(data["word"]).names == ["x", "y"]
    with pytest.raises(TypeError, match=r"columns \['label', 'tags', 'word'\]"):
        Targets(data)
