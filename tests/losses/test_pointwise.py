"""The engine: all paths give the same, little is kept, and what is not allowed is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from equipoise import losses
from equipoise.losses import class_ids, engine, positives
from tests.losses.cases import CASES, MULTI, batch


def csr(targets: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse CSR is in beta state
        return targets.to_sparse_csr()


def value_and_gradient(loss, logits, targets):
    logits = logits.clone().requires_grad_()
    total = loss(logits, targets)
    total.backward()
    whole = isinstance(loss, losses.TwoWayLoss)
    values = total if whole else loss.unreduced(logits, targets)
    return values.detach(), total.detach(), logits.grad


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch):
    """Sets the way the positives are found and the size of chunks."""

    def choose(search: bool, look: bool, chunk: int) -> None:
        monkeypatch.setattr(positives, "DENSE_SHARE", 1.0 if search else -1.0)
        for module in (engine, class_ids):
            monkeypatch.setattr(module, "may_look", lambda tensor: look)
        monkeypatch.setattr(engine, "LARGE", 0)
        monkeypatch.setattr(engine, "CHUNK", chunk)

    return choose


@pytest.mark.parametrize("case", MULTI, ids=lambda case: case.name)
@pytest.mark.parametrize("rows", [5, 8])  # 8·5 labels can be read eight at a time, 5·5 cannot
def test_all_paths_agree(case, rows: int, paths):
    logits, targets = batch(case, rows)
    loss = case.make(log_weight=torch.tensor([0.3, 0.0, -0.1, 0.2, -0.4]))
    paths(search=False, look=True, chunk=1 << 20)
    expected = value_and_gradient(loss, logits, targets)
    forms = [targets, targets.bool(), targets.long(), targets.float(), targets.half()]
    for search, look, chunk in [(1, 1, 1 << 20), (1, 1, 12), (0, 1, 12), (0, 0, 12), (1, 1, 1)]:
        paths(bool(search), bool(look), chunk)
        for form in [*forms, csr(targets), csr(targets.float())]:
            found = value_and_gradient(loss, logits, form)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other)


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
    before = engine.CHUNK, engine.LARGE
    engine.CHUNK, engine.LARGE = chunk, 0
    try:
        for form in (targets, csr(targets)) if rows else (targets,):
            found = losses.weighted_bce(logits, form, pos_weight=weight, reduction="none")
            torch.testing.assert_close(found, expected)
            total = losses.weighted_bce(logits, form, pos_weight=weight, reduction="sum")
            torch.testing.assert_close(total, expected.sum())
    finally:
        engine.CHUNK, engine.LARGE = before


@pytest.mark.parametrize("search", [False, True])
def test_soft_labels_mix_both_sides(search: bool, paths):
    paths(search, look=True, chunk=8)
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0]], dtype=torch.float64)
    targets = torch.tensor([[0.3, 0.0, 1.0, 0.9]], dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(losses.weighted_bce(logits, targets), expected)
    torch.testing.assert_close(losses.weighted_bce(logits, csr(targets)), expected)


def test_half_precision_mean_keeps_small_gradients():
    """1/(B·C) is below float16's smallest number; the gradients themselves are not."""
    logits = torch.zeros(2048, 1024, dtype=torch.float16, requires_grad=True)
    loss = losses.WeightedBCE()(logits, torch.zeros(2048, 1024, dtype=torch.bool))
    (loss * 2.0**16).backward()  # as a gradient scaler does
    assert logits.grad is not None
    expected = torch.tensor(0.5 * 2.0**16 / 2**21, dtype=torch.float16)
    assert bool((logits.grad == expected).all())


def test_example_weights_and_their_normalizations():
    logits = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]], dtype=torch.float64)
    targets = torch.tensor([[1, 0], [0, 1], [1, 1]])
    weight = torch.tensor([2.0, 0.0, 0.5])
    plain = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none")
    total = (plain * weight[:, None]).sum()
    for normalization, divisor in (("batch", 6.0), ("weight", 5.0), ("nonzero", 4.0)):
        loss = losses.WeightedBCE(normalization=normalization)
        torch.testing.assert_close(loss(logits, targets, weight), total / divisor)
        assert loss(logits, targets, torch.zeros(3)) == 0
    with pytest.raises(ValueError, match=r"Expected weight to be of shape \(3,\)"):
        loss(logits, targets, torch.ones(2))


def test_gradients_flow_with_example_weights():
    logits = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[1, 0], [0, 1], [1, 1]])
    weight = torch.tensor([2.0, 0.0, 0.5])
    for normalization in ("batch", "weight", "nonzero"):
        loss = losses.WeightedBCE(normalization=normalization)
        z = logits.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z, f=loss: f(z, targets, weight), z)


@pytest.mark.parametrize("case", MULTI, ids=lambda case: case.name)
def test_stored_zeros_are_negatives(case):
    logits, targets = batch(case)
    crow = torch.arange(8) * 5  # every element is stored
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = torch.arange(5).repeat(7)
        full = torch.sparse_csr_tensor(crow, columns, targets.reshape(-1), size=(7, 5))
    for one, other in zip(
        value_and_gradient(case.make(), logits, full),
        value_and_gradient(case.make(), logits, targets),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for a device: reading a value, or a shape that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waiting = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default")
        name = str(func).replace("count_nonzero", "count")  # which does not
        masks = [i for a in args if isinstance(a, list | tuple) for i in a if _is_mask(i)]
        if any(word in name for word in waiting) or ("index.Tensor" in name and masks):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def _is_mask(value) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.bool, torch.uint8)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_waits_for_a_device(case, paths):
    """On a device values are never looked at (which `paths` pretends this is)."""
    paths(search=False, look=False, chunk=1 << 20)
    logits, targets = batch(case)
    logits.requires_grad_()
    loss = case.make(log_weight=torch.zeros(5))
    with NoWaiting():
        loss(logits, targets).backward()
        if case.elementwise:
            loss.unreduced(logits, targets)
        loss.correct(logits.detach())
    if case.multilabel:
        sparse = csr(targets.float())
        with NoWaiting():
            loss(logits, sparse).backward()


def test_the_watch_for_waiting_works():
    x = torch.arange(3)
    for wait in (lambda: x.sum().item(), lambda: x[x > 0], lambda: x.nonzero()):
        with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
            wait()


@pytest.mark.filterwarnings("ignore")  # torch's own, about its compiler
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiles_without_a_break(case):
    logits, targets = batch(case, dtype=torch.float32)
    loss = case.make(log_weight=torch.zeros(5))
    expected = value_and_gradient(loss, logits, targets)[1:]
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    z = logits.clone().requires_grad_()
    value = compiled(z, targets)
    value.backward()
    for one, other in zip((value.detach(), z.grad), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_bad_targets():
    logits = torch.zeros(2, 4)
    with pytest.raises(TypeError, match="dense or sparse CSR"):
        losses.weighted_bce(logits, torch.eye(2, 4).to_sparse_coo())
    with pytest.raises(TypeError, match="dense or sparse CSR"):
        losses.two_way_loss(logits, torch.eye(2, 4).to_sparse_coo())


def test_pos_weight_from_counts():
    found = losses.pos_weight_from_counts([50, 1, 0, 100], 100)
    assert found.tolist() == pytest.approx([1.0, 99.0, 100.0, 0.01])
    with pytest.raises(ValueError, match="Expected counts to be at most num_examples"):
        losses.pos_weight_from_counts([101], 100)
