"""What must hold for every loss in the table of cases."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from equipoise.losses import TwoWayLoss
from tests.losses.cases import CASES, LOG_WEIGHT, C, Case, batch, gradient, minimise

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@each_case
def test_equals_the_naive_loop(case: Case):
    logits, targets = batch(case)
    expected = torch.tensor(case.naive(logits.tolist(), targets.tolist()), dtype=torch.float64)
    loss = case.make()
    if case.elementwise:
        torch.testing.assert_close(loss.unreduced(logits, targets), expected, rtol=1e-6, atol=1e-8)
        expected = expected.mean()
    for z in (logits, logits.t().contiguous().t()):
        torch.testing.assert_close(loss(z, targets), expected, rtol=1e-6, atol=1e-8)


@each_case
def test_gradcheck(case: Case):
    if case.detached:
        pytest.skip("part of the loss is held constant in the gradient")
    logits, targets = batch(case)
    logits.requires_grad_()
    for loss in (case.make(), case.make(log_weight=LOG_WEIGHT)):
        for reduction in ("mean", "sum", "none") if case.elementwise else ("mean", "sum"):
            loss.reduction = reduction
            assert torch.autograd.gradcheck(lambda z, f=loss: f(z, targets), logits)


@each_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(case: Case, dtype: torch.dtype):
    logits, targets = batch(case, dtype=dtype)
    loss = case.make(log_weight=LOG_WEIGHT)
    value, expected = loss(logits, targets), loss(logits.double(), targets)
    with torch.autocast("cpu", torch.bfloat16):  # changes nothing
        torch.testing.assert_close(loss(logits, targets), value)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    found, exact = (gradient(loss, z, targets) for z in (logits, logits.double()))
    assert found.dtype == dtype
    rtol = max(1e-5, 4 * torch.finfo(dtype).eps)
    torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=1e-6)
    if case.elementwise:
        assert loss.unreduced(logits, targets).dtype == value.dtype


@each_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_extreme_logits_are_finite(case: Case, dtype: torch.dtype, size: float):
    if size > 100 and dtype == torch.float16:
        pytest.skip("the loss itself may lie beyond float16")
    logits, targets = batch(case, 64)
    signs = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    logits = size * signs[(torch.arange(logits.numel()).view_as(logits) * 7 // 3) % 3]
    logits = logits.to(dtype)
    loss = case.make(log_weight=LOG_WEIGHT)
    for values in (loss, loss.unreduced) if case.elementwise else (loss,):
        assert torch.isfinite(values(logits, targets)).all()
        assert torch.isfinite(gradient(values, logits, targets)).all()
    assert torch.isfinite(loss.correct(logits.clamp(-30, 30))).all()


@each_case
def test_reductions_agree(case: Case):
    logits, targets = batch(case)
    loss = case.make(log_weight=LOG_WEIGHT)
    if not case.elementwise:
        with pytest.raises(TypeError, match="per-element"):
            loss.unreduced(logits, targets)
        with pytest.raises(ValueError, match="reduction"):
            case.make(reduction="none")
        return
    values = loss.unreduced(logits, targets)
    assert values.shape == (logits.shape if case.multilabel else targets.shape)
    for reduction, expected in (("mean", values.mean()), ("sum", values.sum()), ("none", values)):
        reduced = case.make(log_weight=LOG_WEIGHT, reduction=reduction)
        torch.testing.assert_close(reduced(logits, targets), expected)
    assert case.make(reduction="sum")(logits[:0], targets[:0]) == 0


@each_case
def test_neutral_setting_is_plain(case: Case):
    if case.neutral is None:
        return
    logits, targets = batch(case)
    loss = case.neutral()
    if case.multilabel:
        plain = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none")
    else:
        plain = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(loss.unreduced(logits, targets), plain)
    torch.testing.assert_close(loss(logits, targets), plain.mean())
    corrected = loss.correct(logits)
    if not case.multilabel:  # up to a constant
        corrected, logits = corrected.log_softmax(-1), logits.log_softmax(-1)
    torch.testing.assert_close(corrected, logits)


@each_case
def test_log_weight_is_neutral_at_zero_and_written_in_place(case: Case):
    logits, targets = batch(case)
    loss, plain = case.make(), case.make()
    loss.set_log_weight(torch.zeros(C))
    assert torch.equal(loss(logits, targets), plain(logits, targets))
    torch.testing.assert_close(loss.correct(logits), plain.correct(logits))
    held = loss.log_weight
    loss.set_log_weight(LOG_WEIGHT)
    assert loss.log_weight is held
    assert torch.equal(held, LOG_WEIGHT)
    expected = case.make(log_weight=LOG_WEIGHT)(logits, targets)
    assert torch.equal(loss(logits, targets), expected)
    assert not torch.equal(expected, plain(logits, targets))


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_inputs_and_autograd_mode_are_left_alone(case: Case, dtype: torch.dtype):
    logits, targets = batch(case, dtype=dtype)
    logits.requires_grad_()
    before, labels, state = logits.detach().clone(), targets.clone(), torch.get_rng_state()
    loss = case.make(log_weight=LOG_WEIGHT)
    attached = loss(logits, targets)
    assert attached.requires_grad
    (first,) = torch.autograd.grad(attached, logits, retain_graph=True)
    (second,) = torch.autograd.grad(attached, logits)
    assert torch.equal(first, second)
    with torch.no_grad():
        assert not loss(logits, targets).requires_grad
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.equal(loss(logits, targets), attached.detach())
    assert not loss(logits.detach(), targets).requires_grad
    loss.correct(logits.detach())
    assert torch.equal(logits.detach(), before)
    assert torch.equal(targets, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(buffer.requires_grad for buffer in loss.buffers())


@each_case
def test_state_dict_pickle_and_copy(case: Case):
    logits, targets = batch(case)
    loss = case.make(log_weight=LOG_WEIGHT)
    expected = loss(logits, targets)
    for fresh in (case.make(), case.make(log_weight=torch.zeros(C))):
        fresh.load_state_dict(loss.state_dict())
        assert torch.equal(fresh(logits, targets), expected)
    for again in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert torch.equal(again(logits, targets), expected)
    loss.load_state_dict(case.make().state_dict())  # saved before λ was first set
    assert loss.log_weight is None
    assert "reduction='mean'" in repr(loss)


@each_case
def test_modules_move_and_half_precision_ones_keep_their_vectors(case: Case):
    logits, targets = batch(case, dtype=torch.float32)
    loss = case.make(log_weight=LOG_WEIGHT)
    expected = loss(logits, targets)
    assert torch.equal(loss.half()(logits, targets), expected)
    assert torch.equal(torch.nn.Sequential(loss).bfloat16()[0](logits, targets), expected)
    assert all(b.dtype == torch.float64 for b in loss.double().buffers())
    # one without buffers still knows its device when λ first comes
    loss = case.make().to("meta")
    loss.set_log_weight(torch.zeros(C))
    assert all(buffer.device.type == "meta" for buffer in loss.buffers())


@each_case
def test_bad_input(case: Case):
    logits, targets = batch(case)
    loss, lifted = case.make(), case.make(log_weight=LOG_WEIGHT)
    infinite = torch.tensor([torch.inf, 0, 0, 0, 0])
    twice = torch.cat([logits, logits], 1)
    for_twice = torch.cat([targets, targets], 1) if case.multilabel else targets
    for call, message in (
        (lambda: case.make(reduction="avg"), "reduction to be"),
        (lambda: case.make(log_weight=[torch.nan, 0, 0, 0, 0]), "log_weight to be finite"),
        (lambda: loss.set_log_weight(infinite), "log_weight to be finite"),
        (lambda: loss.set_log_weight(torch.zeros(C, C)), "log_weight to be of shape"),
        (lambda: lifted.set_log_weight(torch.zeros(C + 1)), "log_weight to be of shape"),
        (lambda: loss(logits, targets[:-1]), "targets to be of shape"),
        (lambda: loss(logits[None], targets), "(logits|targets) to be of shape"),
        (lambda: lifted(twice, for_twice), rf".* to be of shape \({2 * C},\)"),
    ):
        with pytest.raises(ValueError, match=f"Expected {message}"):
            call()
    with pytest.raises(TypeError, match="Expected logits to be a floating-point"):
        loss(logits.long(), targets)


INVERSES = [(f"{c.name} {i}", c, make) for c in CASES for i, make in enumerate(c.inverts)]


@pytest.mark.parametrize(("name", "case", "make"), INVERSES, ids=[i[0] for i in INVERSES])
def test_correct_recovers_the_posterior(name: str, case: Case, make):
    eta = torch.tensor([0.45, 0.25, 0.15, 0.1, 0.05], dtype=torch.float64)
    loss = make()

    def expected(logits: torch.Tensor) -> torch.Tensor:
        if not case.multilabel:
            return eta @ loss.unreduced(logits.expand(C, C), torch.arange(C))
        positive, negative = (loss.unreduced(logits, torch.full((1, C), y)) for y in (1.0, 0.0))
        return (eta * positive + (1 - eta) * negative).sum()

    corrected = loss.correct(minimise(expected, 1, C))
    found = corrected.sigmoid() if case.multilabel else corrected.softmax(-1)
    torch.testing.assert_close(found[0], eta, rtol=1e-4, atol=1e-6)


def test_correct_of_every_loss_is_tried():
    tried = {type(loss) for _, _, make in INVERSES if (loss := make()).log_weight is not None}
    # the two-way loss depends on the whole batch and has no inverse
    assert {type(case.make()) for case in CASES} - tried == {TwoWayLoss}
