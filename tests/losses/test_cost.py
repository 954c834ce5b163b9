"""What a loss costs, in counts that do not depend on the machine's speed.

A pass is one reading or writing of as many elements as the logits have, by one torch operation. The
bounds are what was counted when the times in benchmarks/README.md were measured: more of either is
a step back.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from equipoise import losses
from equipoise.losses import engine
from equipoise.losses.engine import softplus

ROWS, CLASSES = 96, 5000
SIZE = ROWS * CLASSES
COUNTS = torch.arange(1.0, CLASSES + 1)


class Counting(TorchDispatchMode):
    """Adds up the elements that operations work on, and lists new tensors of the logits' size."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.calls = 0
        self.large: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        dense = [t for t in given if t.layout == torch.strided]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        made = [t for t in made if t.layout == torch.strided]
        self.calls += 1
        known = {t.untyped_storage().data_ptr() for t in dense}
        new = [t for t in made if t.untyped_storage().data_ptr() not in known]
        name = str(func).removeprefix("aten.")
        self.large += [name for t in new if t.numel() >= SIZE]
        # A view works on nothing, and gathering or filling by index on few elements.
        few = ("index", "gather", "scatter_add_", "empty", "new_")
        if (new or func._schema.is_mutable) and not name.startswith(few):
            self.elements[name] += max((t.numel() for t in [*dense, *made]), default=0)
        return out

    @property
    def passes(self) -> float:
        return sum(self.elements.values()) / SIZE


def counted(loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor) -> Counting:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(ROWS, CLASSES, generator=generator) - 3).requires_grad_()
    with Counting() as counting:
        loss(logits, targets).backward()
    assert logits.grad is not None
    return counting


def positives() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(ROWS, CLASSES, generator=generator) < 130 / 7900


def sparse() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse CSR is in beta state
        return positives().float().to_sparse_csr()


MULTILABEL: list[tuple[losses.Loss, float, int]] = [
    # loss, most passes, most operations; for sparse targets, in three chunks
    (losses.WeightedBCE(), 7.3, 88),
    (losses.WeightedBCE(COUNTS / 1000, COUNTS / 2000), 9.4, 100),
    (losses.SigmoidFocalLoss(), 12.42, 110),
    (losses.AsymmetricLoss(), 15.4, 114),
    (losses.DistributionBalancedLoss(COUNTS, 10_000), 12.6, 151),
    (losses.TwoWayLoss(), 7.6, 162),
]
SINGLE: list[tuple[losses.Loss, float, int, int]] = [
    # loss, most passes, most operations, new tensors of the logits' size; torch's own: 4, 8 and 3.
    # One operation looks for targets to ignore.
    (losses.WeightedCrossEntropy(COUNTS), 4.1, 12, 3),
    (losses.LogitAdjustedCrossEntropy(COUNTS), 8.1, 85, 1),
    (losses.LDAM(COUNTS), 8.1, 97, 1),
    (losses.VectorScaling(COUNTS), 9.1, 88, 1),
    (losses.FocalLoss(), 4.1, 32, 3),
    (losses.Seesaw(COUNTS), 12.1, 114, 1),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()  # chunks are larger with more
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("loss", "passes", "calls"), MULTILABEL, ids=[type(row[0]).__name__ for row in MULTILABEL]
)
def test_multilabel_passes(loss: losses.Loss, passes: float, calls: int):
    found = counted(loss, sparse())
    assert found.large == ["empty_like.default"]  # what is kept, and becomes the gradient
    assert found.passes <= passes, found.elements.most_common()
    assert found.calls <= calls
    dense = counted(loss, positives())  # the search for positives is NumPy's, and not counted
    assert dense.large == ["empty_like.default"]
    assert dense.passes <= passes
    assert dense.calls <= calls


@pytest.mark.parametrize(
    ("loss", "passes", "calls", "large"), SINGLE, ids=[type(row[0]).__name__ for row in SINGLE]
)
def test_single_label_passes(loss: losses.Loss, passes: float, calls: int, large: int):
    found = counted(loss, torch.arange(ROWS))
    assert found.passes <= passes, found.elements.most_common()
    assert found.calls <= calls
    assert len(found.large) <= large, found.large


@pytest.mark.parametrize("loss", [row[0] for row in SINGLE], ids=lambda loss: type(loss).__name__)
def test_single_label_keeps_one_tensor_of_the_logits_size(loss: losses.Loss):
    logits = torch.zeros(ROWS, CLASSES, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != logits.data_ptr():
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(logits, torch.arange(ROWS))
    assert sum(kept.values()) <= 1.02 * SIZE * logits.element_size()


def test_counting_counts():
    found = counted(lambda z, y: (z * 2).exp().sum(), positives())
    # forward: three; backward: the gradient of exp and of the product
    assert found.elements["mul.Tensor"] == 3 * SIZE
    assert found.elements["exp.default"] == SIZE
    assert found.elements["sum.default"] == SIZE
    assert len(found.large) == 4


def test_chunks_are_small():
    assert engine.CHUNK * 4 <= 1 << 20  # bytes of float32: about a core's cache


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor, **options: bool) -> Tensor:
    (found,) = torch.autograd.grad(loss(logits), logits, **options)
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_gradient_in_place_of_what_was_kept_is_right(dtype: torch.dtype):
    """Whatever the factor on the loss, and also where the graph is kept for another backward."""
    logits = torch.linspace(-4, 4, 60).view(3, 20).to(dtype).requires_grad_()
    targets = (torch.arange(60) % 11 == 0).view(3, 20)
    for loss in (row[0] for row in MULTILABEL[:1] + MULTILABEL[2:4]):
        once = gradient(lambda z, f=loss: f(z, targets), logits).float()
        thrice = gradient(lambda z, f=loss: 3 * f(z, targets), logits).float()
        torch.testing.assert_close(thrice, 3 * once, rtol=1e-3, atol=1e-6)
        value = 3 * loss(logits, targets)
        for keep in (True, True, False):
            (found,) = torch.autograd.grad(value, logits, retain_graph=keep)
            torch.testing.assert_close(found.float(), thrice)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            value.backward()


@pytest.mark.parametrize("size", [1.0, 30.0, 60.0, 90.0, 200.0])
def test_two_way_leaves_the_plain_sums_in_time(size: float):
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(40, 30, generator=generator) < 0.05
    logits = size * (torch.rand(40, 30, generator=generator) - 0.5).double()
    exact = logits.clone().requires_grad_()
    losses.two_way_loss(exact, targets.double() * 1.0).backward()
    single = logits.float().requires_grad_()
    value = losses.two_way_loss(single, targets)
    value.backward()
    torch.testing.assert_close(single.grad.double(), exact.grad, rtol=2e-5, atol=1e-7)


def test_transposed_logits_with_few_positives():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 40, generator=generator)
    targets = torch.rand(40, 30, generator=generator) < 0.05
    for loss, *_ in MULTILABEL[:1] + MULTILABEL[2:4] + MULTILABEL[5:]:
        z = logits.clone().requires_grad_()
        loss(z.t(), targets).backward()
        straight = logits.t().contiguous().requires_grad_()
        loss(straight, targets).backward()
        torch.testing.assert_close(z.grad.t(), straight.grad)
    expected = F.binary_cross_entropy_with_logits(logits.t(), targets.float())
    torch.testing.assert_close(losses.weighted_bce(logits.t(), targets), expected)


def test_softplus_beyond_its_fast_range():
    z = torch.tensor([-200.0, -80.0, -20.0, 0.0, 20.0, 80.0, 200.0, float("inf")])
    for part in (z, z[:6]):
        expected = F.softplus(part.double(), threshold=50.0)
        torch.testing.assert_close(softplus(part).double(), expected, rtol=5e-6, atol=1e-37)
    assert softplus(torch.tensor([float("nan")])).isnan()
