"""SelectiveBackprop: full batches of the hardest, and a model that does not notice the scoring."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equipoise.losses import WeightedCrossEntropy
from equipoise.mining import SelectiveBackprop

LOSS = WeightedCrossEntropy().unreduced
PAIR = [(torch.zeros(2, 3), torch.zeros(2).long())]


def loader(batches=8, size=16):
    """Images, labels, indices; the labels cannot be told from the images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batches * size, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 4, (batches * size,), generator=generator)
    indices = torch.arange(batches * size)
    parts = (images.split(size), labels.split(size), indices.split(size))
    return list(zip(*parts, strict=True))


def net(drop=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


@pytest.mark.parametrize("keep", [0.5, 0.25, 0.3, 1.0])
def test_full_batches_of_the_hardest(keep):
    model, batches = net().eval(), loader()
    miner = SelectiveBackprop(keep, per_class=False)
    out = list(miner(batches, model, LOSS))
    sizes = [len(labels) for _, labels, _ in out]
    assert sizes[:-1] == [16] * (len(sizes) - 1)
    assert sum(sizes) == pytest.approx(keep * 128, abs=1)
    for images, labels, indices in out:
        source = [torch.cat(column)[indices] for column in zip(*batches, strict=True)]
        assert torch.equal(source[0], images)
        assert torch.equal(source[1], labels)
    chosen = torch.cat([indices for _, _, indices in out])
    assert torch.equal(chosen, chosen.sort().values)
    assert len(chosen.unique()) == len(chosen)
    for images, labels, indices in batches:
        losses = F.cross_entropy(model(images), labels, reduction="none").detach()
        mine = torch.isin(indices, chosen)
        if not mine.all():
            assert losses[mine].min() >= losses[~mine].max()


@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_no_trace_in_the_model(training):
    """Modes, batch statistics, random state, also where the loss fails; steps move them as ever."""
    model = net(drop=0.9).train(training)
    model[0].eval()  # a frozen layer stays frozen
    plain = copy.deepcopy(model)
    before, random_state = [m.training for m in model.modules()], torch.get_rng_state()

    def fails(logits, targets):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        list(SelectiveBackprop(0.5)(loader(), model, fails))
    steps = 0
    for images, *_ in SelectiveBackprop(0.5)(loader(), model, LOSS):
        assert torch.equal(random_state, torch.get_rng_state())
        assert [m.training for m in model.modules()] == before
        assert torch.is_grad_enabled()
        assert model(images).requires_grad
        torch.set_rng_state(random_state)
        plain(images)
        torch.set_rng_state(random_state)
        steps += 1
        assert torch.equal(model[1].running_mean, plain[1].running_mean)
        assert torch.equal(model[1].running_var, plain[1].running_var)
    assert steps == 4
    assert int(model[1].num_batches_tracked) == (steps if training else 0)


def test_class_shares_stay():
    batches, model = loader(batches=64), net().eval()
    miner = SelectiveBackprop(0.3, num_classes=4)
    list(miner(batches, model, LOSS))
    row = miner.tally.summary()
    for seen, kept in zip(row["seen_by_class"], row["kept_by_class"], strict=True):
        assert kept == pytest.approx(0.3 * seen, abs=4 * 0.5 * 64**0.5)
    assert row["num_kept"] == pytest.approx(0.3 * 1024, abs=1)


def test_nan_is_never_chosen_and_counted():
    batches = loader()
    batches[0][0][3] = torch.nan
    batches[5][0][:] = torch.nan
    miner = SelectiveBackprop(0.5, per_class=False)
    out = list(miner(batches, net().eval(), LOSS))
    assert all(torch.isfinite(images).all() for images, *_ in out)
    assert miner.tally.num_nonfinite == 17
    with pytest.raises(FloatingPointError, match="all 16 of this pass were NaN"):
        list(miner([batches[5]], net().eval(), LOSS))


def test_resolution_autocast_batch_size_and_drop_last():
    seen = []
    model = net().eval()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))
    miner = SelectiveBackprop(
        0.5, resolution=0.5, autocast=torch.bfloat16, batch_size=10, drop_last=True
    )
    out = list(miner(loader(), model, LOSS))
    assert set(seen) == {4}
    assert [len(labels) for _, labels, _ in out] == [10] * 6
    assert out[0][0].shape == (10, 3, 8, 8)


def test_inactive_epochs_pass_the_batches_on():
    miner = SelectiveBackprop(0.5, warm_up=1)
    batches = loader()
    assert all(
        torch.equal(a[0], b[0]) for a, b in zip(miner(batches, net(), LOSS), batches, strict=True)
    )
    miner.set_epoch(1)
    assert len(list(miner(batches, net().eval(), LOSS))) == 4


def test_multilabel_losses_are_averaged():
    batches = [(torch.randn(8, 3), (torch.rand(8, 5) < 0.3).float()) for _ in range(4)]
    loss = nn.BCEWithLogitsLoss(reduction="none")
    miner = SelectiveBackprop(0.5, per_class=False)
    assert [len(y) for _, y in miner(batches, nn.Linear(3, 5), loss)] == [8, 8]


@pytest.mark.parametrize(
    ("batches", "loss", "error", "message"),
    [
        ([{"x": 1}], LOSS, TypeError, "Expected loader to give tuples of tensors"),
        ([torch.zeros(3, 3)], LOSS, TypeError, "but got Tensor"),
        ([(torch.zeros(3, 3), [1, 2])], LOSS, TypeError, "Tensor.*list"),
        ([(torch.zeros(3, 3),)], LOSS, TypeError, "inputs, targets"),
        ([(torch.zeros(3, 3), torch.zeros(2))], LOSS, ValueError, r"lengths \[3, 2\]"),
        (PAIR, F.cross_entropy, ValueError, "Expected loss to give one value for each of 2"),
        (PAIR, LOSS, FloatingPointError, "Expected keep=0.01 of 2 examples"),
    ],
)
def test_bad_batches(batches, loss, error, message):
    with pytest.raises(error, match=message):
        list(SelectiveBackprop(0.01)(batches, nn.Linear(3, 4), loss))
