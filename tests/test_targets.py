from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.utils.data import Subset

from equipoise import Targets

IDS = [0, 2, 2, 1, 2]
HOT = [[1, 0, 1], [0, 0, 0], [0, 0, 1]]


class Dataset:
    def __init__(self, targets):
        self.targets = targets

    def __len__(self):
        return len(self.targets)


@pytest.mark.parametrize(
    "labels",
    [
        IDS,
        tuple(IDS),
        np.array(IDS),
        np.array(IDS, np.uint8),
        np.array(IDS, float),
        torch.tensor(IDS),
        torch.tensor(IDS, dtype=torch.bfloat16),
        Dataset(IDS),
        Dataset(torch.tensor(IDS)),
        Subset(Dataset([9, 0, 2, 2, 1, 2, 9]), [1, 2, 3, 4, 5]),
    ],
)
def test_class_ids_from_anything(labels):
    targets = Targets(labels)
    assert targets.labels.tolist() == IDS
    assert targets.counts.tolist() == [1, 1, 3]
    assert not targets.multilabel
    assert targets.labels.dtype == np.uint8
    assert [targets.members[a:b].tolist() for a, b in pairwise(targets.starts)] == [
        [0],
        [3],
        [1, 2, 4],
    ]


@pytest.mark.parametrize(
    "labels",
    [
        HOT,
        np.array(HOT),
        np.array(HOT, bool),
        torch.tensor(HOT, dtype=torch.float16),
        lambda: torch.tensor(HOT).to_sparse_csr(),
        lambda: torch.tensor(HOT).to_sparse(),
        scipy.sparse.csr_matrix(HOT),
        scipy.sparse.coo_array(np.array(HOT)),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_multi_hot_from_anything(labels):
    targets = Targets(labels() if callable(labels) else labels)
    assert targets.multilabel
    assert targets.matrix.toarray().tolist() == HOT
    assert targets.counts.tolist() == [1, 0, 2]


def test_num_classes_beyond_the_largest_id():
    assert Targets([0, 1], num_classes=4).counts.tolist() == [1, 1, 0, 0]


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
        (["cat", "dog"], TypeError, "numbers"),
        (None, TypeError, "numbers"),
        ([[0, 2]], ValueError, "0 or 1, but got 2"),
        ([[0.0, float("nan")]], ValueError, "0 or 1, but got nan"),
        ([[3], [4]], ValueError, "ravel"),
        (np.zeros((2, 2, 2)), ValueError, "shape"),
        (5, ValueError, "shape"),
        ([2**40], ValueError, "below 2"),
    ],
)
def test_bad_labels_are_named(labels, error, words):
    with pytest.raises(error, match=f"Expected .*{words}"):
        Targets(labels)


@pytest.mark.parametrize("classes", [0, -1, 1.5, True, "3"])
def test_bad_num_classes_is_named(classes):
    with pytest.raises(ValueError, match="Expected num_classes"):
        Targets([0, 1], classes)


def test_ids_at_or_above_num_classes_are_refused():
    with pytest.raises(ValueError, match="below num_classes=2, but got 5 at position 1"):
        Targets([0, 5], num_classes=2)


def test_label_ids():
    targets = Targets.from_label_ids([[0, 2], [], [2]], 3)
    assert targets.matrix.toarray().tolist() == HOT
    with pytest.raises(ValueError, match="below num_classes=3"):
        Targets.from_label_ids([[3]], 3)
    with pytest.raises(ValueError, match="duplicate"):
        Targets.from_label_ids([[1, 1]], 3)


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
