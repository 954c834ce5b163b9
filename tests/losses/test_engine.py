"""The engine, and the paths beside it: what plain torch operations give, they give too."""

from __future__ import annotations

import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equipoise import losses
from equipoise.losses import class_ids, engine, pointwise
from equipoise.losses.engine import softplus
from tests.losses.cases import CASES, COUNTS, LOG_WEIGHT, SINGLE, C, batch, gradient
from tests.waiting import NoWaiting

ADJUSTED = [losses.LogitAdjustedCrossEntropy, losses.LDAM, losses.VectorScaling, losses.Seesaw]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_adjusted = pytest.mark.parametrize("kind", ADJUSTED, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """The engine, whatever the size."""
    monkeypatch.setattr(engine, "LARGE", 0)


@pytest.fixture
def paths(monkeypatch):
    """Sets how the positives are found, whether values are looked at, and the size of chunks."""

    def choose(search: bool, look: bool, chunk: int, large: int = 0) -> None:
        monkeypatch.setattr(pointwise, "DENSE_SHARE", 1.0 if search else -1.0)
        for module in (engine, class_ids):
            monkeypatch.setattr(module, "may_look", lambda tensor: look)
        monkeypatch.setattr(engine, "LARGE", large)
        monkeypatch.setattr(engine, "CHUNK", chunk)

    return choose


def csr(targets: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse CSR is in beta state
        return targets.to_sparse_csr()


def every_element_stored(targets: Tensor) -> Tensor:
    rows, columns = targets.shape
    crow = torch.arange(rows + 1) * columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = torch.arange(columns).repeat(rows)
        return torch.sparse_csr_tensor(crow, ids, targets.reshape(-1), size=targets.shape)


def outcome(loss: losses.Loss, logits: Tensor, targets: Tensor) -> list[Tensor]:
    """Value, gradient, a second derivative, and the elements' losses where there are any."""
    z = logits.clone().requires_grad_()
    value = loss(z, targets)
    (first,) = torch.autograd.grad(loss(z, targets), z, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), z)
    each = [] if isinstance(loss, losses.TwoWayLoss) else [loss.unreduced(logits, targets)]
    return [value.detach(), gradient(loss, logits, targets), second, *each]


# Eight rows of labels can be read eight at a time, five cannot.
@pytest.mark.parametrize("rows", [5, 8])
@each_case
def test_every_path_gives_what_plain_operations_give(case, rows: int, paths):
    logits, targets = batch(case, rows)
    loss = case.make(log_weight=LOG_WEIGHT)
    targets_given = [[targets]]
    if case.multilabel:
        sparse = [csr(targets), csr(targets.float()), every_element_stored(targets)]
        targets_given = [[targets, targets.bool(), targets.long(), targets.half(), *sparse]]
        soft = torch.rand(rows, C, generator=torch.Generator().manual_seed(0)) * targets
        targets_given.append([soft, csr(soft)])
    for forms in targets_given:
        paths(search=False, look=True, chunk=1 << 20, large=1 << 30)
        expected = outcome(loss, logits, forms[0])
        for search, look, chunk in [(1, 1, 1 << 20), (1, 1, 12), (0, 1, 12), (0, 0, 12), (1, 1, 1)]:
            paths(bool(search), bool(look), chunk)
            for form in forms:
                for z in (logits, logits.t().contiguous().t()):
                    found = outcome(loss, z, form)
                    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [0.1, 20.0, 200.0])
@each_case
def test_small_and_large_float32_logits(case, scale: float, paths):
    logits, targets = batch(case, 40, torch.float32, scale)
    loss = case.make(log_weight=LOG_WEIGHT)
    paths(search=True, look=True, chunk=6 * C)  # chunks of unequal length
    found = loss(logits, targets), gradient(loss, logits, targets)
    paths(search=True, look=True, chunk=6 * C, large=1 << 30)
    expected = loss(logits, targets), gradient(loss, logits, targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 9),
    classes=st.integers(1, 9),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    chunk=st.sampled_from([1, 16, 1 << 18]),
    seed=st.integers(0, 1000),
)
def test_bce_is_torch_bce(rows: int, classes: int, density: float, chunk: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    targets = torch.rand(rows, classes, generator=generator) < density
    weight = torch.rand(classes, generator=generator, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(
        logits, targets.double(), pos_weight=weight, reduction="none"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "CHUNK", chunk)
        patch.setattr(engine, "LARGE", 0)
        for form in (targets, csr(targets)) if rows else (targets,):
            for reduction, value in (("none", expected), ("sum", expected.sum())):
                found = losses.weighted_bce(logits, form, pos_weight=weight, reduction=reduction)
                torch.testing.assert_close(found, value)


@each_case
def test_under_torch_func(case):
    logits, targets = batch(case)
    loss = case.make()
    found = torch.func.grad(lambda z: loss(z, targets))(logits)
    torch.testing.assert_close(found, gradient(loss, logits, targets))


@each_case
def test_nothing_waits_for_a_device(case, paths):
    """On a device values are never looked at (which `paths` pretends this is)."""
    paths(search=False, look=False, chunk=1 << 20)
    logits, targets = batch(case)
    logits.requires_grad_()
    loss = case.make(log_weight=torch.zeros(C))
    forms = [targets, csr(targets.float())] if case.multilabel else [targets]
    with NoWaiting():
        for form in forms:
            loss(logits, form).backward()
        if case.elementwise:
            loss.unreduced(logits, targets)
        loss.correct(logits.detach())


def test_the_watch_for_waiting_works():
    x = torch.arange(3)
    for wait in (lambda: x.sum().item(), lambda: x[x > 0], lambda: x.nonzero()):
        with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
            wait()


@pytest.mark.filterwarnings("ignore")  # torch's own, about its compiler
@each_case
def test_compiles_without_a_break(case):
    logits, targets = batch(case, dtype=torch.float32)
    loss = case.make(log_weight=torch.zeros(C))
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, targets), loss(logits, targets))
    torch.testing.assert_close(gradient(compiled, logits, targets), gradient(loss, logits, targets))


ROWS, CLASSES = 96, 5000
MANY = torch.arange(1.0, CLASSES + 1)
KEEPING = [
    losses.WeightedBCE(),
    losses.SigmoidFocalLoss(),
    losses.AsymmetricLoss(),
    losses.TwoWayLoss(),
    losses.DistributionBalancedLoss(MANY, 10_000),
    losses.WeightedCrossEntropy(MANY),
    losses.FocalLoss(),
    *(kind(MANY) for kind in ADJUSTED),
]


@pytest.mark.parametrize("loss", KEEPING, ids=lambda loss: type(loss).__name__)
def test_one_tensor_of_the_logits_size_is_kept(loss: losses.Loss):
    logits = torch.zeros(ROWS, CLASSES, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() != logits.data_ptr():
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    targets = F.one_hot(torch.arange(ROWS), CLASSES) if loss.multilabel else torch.arange(ROWS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(logits, targets)
    assert sum(kept.values()) <= 1.02 * logits.numel() * logits.element_size()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("loss", KEEPING[:3], ids=lambda loss: type(loss).__name__)
def test_gradient_in_place_of_what_was_kept_is_right(loss: losses.Loss, dtype: torch.dtype):
    """Whatever the factor on the loss, and also where the graph is kept for another backward."""
    logits = torch.linspace(-4, 4, 60).view(3, 20).to(dtype).requires_grad_()
    targets = (torch.arange(60) % 11 == 0).view(3, 20)
    thrice = 3 * gradient(loss, logits.detach(), targets).float()
    value = 3 * loss(logits, targets)
    for keep in (True, True, False):
        (found,) = torch.autograd.grad(value, logits, retain_graph=keep)
        torch.testing.assert_close(found.float(), thrice, rtol=1e-3, atol=1e-6)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_half_precision_mean_keeps_small_gradients():
    """1/(B·C) is below float16's smallest number; the gradients themselves are not."""
    logits = torch.zeros(2048, 1024, dtype=torch.float16)
    loss = losses.WeightedBCE()
    # scaled as a gradient scaler does
    found = gradient(lambda z, y: 2.0**16 * loss(z, y), logits, logits > 0)
    assert (found == 0.5 * 2.0**16 / 2**21).all()


@each_adjusted
def test_small_gradients_survive_half_precision(kind):
    """A GradScaler's factor comes before the rounding, not after it."""
    logits = torch.full((2, C), -9.0, dtype=torch.float16)
    logits[:, 0] = 9.0
    targets = torch.zeros(2, dtype=torch.int64)
    loss = kind([1] * C)  # shares of e⁻¹⁸ or less, where float16 has nothing below 6e-8
    exact = gradient(loss, logits.double(), targets)
    found = gradient(lambda z, y: 2.0**16 * loss(z, y), logits, targets)
    torch.testing.assert_close(found[:, 1:], (2.0**16 * exact).half()[:, 1:])
    if kind is not losses.LDAM:  # its scale makes them e⁻⁵⁴⁰
        assert (found[:, 1:] > 0).all()


@each_adjusted
def test_masked_classes(kind, paths):
    """A logit of −∞ takes a class out: it has no share in the value and no gradient."""
    logits, targets = batch(SINGLE[0])
    targets = targets.clamp_max(C - 2)
    logits[:, -1] = -torch.inf
    loss = kind(COUNTS, log_weight=LOG_WEIGHT)
    values, found = loss.unreduced(logits, targets), gradient(loss, logits, targets)
    assert (found[:, -1] == 0).all()
    assert torch.isfinite(found).all()
    paths(search=True, look=True, chunk=1 << 20, large=1 << 30)
    torch.testing.assert_close(values, loss.unreduced(logits, targets))


def test_denormal_shares_are_nothing():
    """They would take many times as long, and a share of 1e-30 changes no float32 sum."""
    logits = torch.tensor([[0.0, -60.0, -80.0, -95.0, -200.0]])
    found = gradient(losses.LogitAdjustedCrossEntropy(), logits, torch.tensor([0]))
    torch.testing.assert_close(found[0, 1], logits[0, 1].exp(), rtol=1e-4, atol=0)
    assert (found[0, 2:] == 0).all()


def test_logits_may_change_in_place_before_backward():
    """As with torch's own: a metric may work on them; second derivatives need them, and say so."""
    start, targets = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    expected = gradient(losses.LogitAdjustedCrossEntropy(), start.detach(), targets)
    logits = start * 1
    loss = losses.LogitAdjustedCrossEntropy()(logits, targets)
    with torch.no_grad():
        logits.sigmoid_()
    (found,) = torch.autograd.grad(loss, start, retain_graph=True)
    assert torch.allclose(found, expected)
    with pytest.raises(RuntimeError, match="Expected logits as the loss was given them"):
        torch.autograd.grad(loss, start, create_graph=True)


def test_many_gradients_at_once():
    logits, targets = torch.randn(3, 4, requires_grad=True), torch.tensor([0, 1, 3])
    loss = losses.LDAM([4, 3, 2, 1], reduction="none")(logits, targets)
    rows = torch.autograd.grad(loss, logits, torch.eye(3), is_grads_batched=True, retain_graph=True)
    (all_at_once,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.allclose(rows[0].sum(0), all_at_once)


def test_another_default_device():
    logits, targets = torch.randn(3, 4), torch.tensor([0, 1, 3])
    with torch.device("meta"):
        assert losses.LogitAdjustedCrossEntropy()(logits, targets).device.type == "cpu"


def test_a_kept_loss_does_not_keep_the_logits():
    logits = torch.randn(3, 4, requires_grad=True) * 1
    gone = weakref.ref(logits)
    loss = losses.LogitAdjustedCrossEntropy()(logits, torch.tensor([0, 1, 3]))
    loss.backward(retain_graph=True)
    loss.backward()
    del logits
    assert gone() is None
    assert torch.isfinite(loss)


@pytest.mark.parametrize("size", [1.0, 30.0, 60.0, 90.0, 200.0])
def test_two_way_leaves_the_plain_sums_in_time(size: float):
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(40, 30, generator=generator) < 0.05
    logits = size * (torch.rand(40, 30, generator=generator) - 0.5).double()
    exact = gradient(losses.two_way_loss, logits, targets.double() * 1.0)
    found = gradient(losses.two_way_loss, logits.float(), targets)
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=1e-7)


def test_softplus_beyond_its_fast_range():
    z = torch.tensor([-200.0, -80.0, -20.0, 0.0, 20.0, 80.0, 200.0, float("inf")])
    for part in (z, z[:6]):
        expected = F.softplus(part.double(), threshold=50.0)
        torch.testing.assert_close(softplus(part).double(), expected, rtol=5e-6, atol=1e-37)
    assert softplus(torch.tensor([float("nan")])).isnan()
