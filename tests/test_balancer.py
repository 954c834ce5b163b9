from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from equipoise import Balancer, holdout_split
from equipoise.balancer.balancer import VERSION
from equipoise.losses import LogitAdjustedCrossEntropy, WeightedBCE, WeightedCrossEntropy
from equipoise.mining import HardNegatives
from equipoise.samplers import ClassBalancedSampler, MPerClassSampler, OrderSampler
from equipoise.weighting import POLICIES, EqualRecall, RecallPower, inverse_frequency
from tests.states import saved

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), [60, 30, 10]))
COUNTS = np.bincount(LABELS)
SEVERAL = np.eye(3, dtype=np.uint8)[LABELS]
SEVERAL[LABELS == 2, 0] = 1  # the rarest label never comes alone


def observed(balancer, recalls, support=200):
    """Feed a hold-out with the given recalls, for labels those where predicted = true."""
    classes = len(recalls)
    if balancer.multilabel:
        targets = torch.zeros(10 * support, classes)
        targets[:support] = 1
        logits = torch.full((10 * support, classes), -2.0)
        for c, recall in enumerate(recalls):
            hits = round(recall * support)
            logits[:hits, c] = logits[support : 2 * support - hits, c] = 2.0
        balancer.observe(logits, targets)
        return
    for c, recall in enumerate(recalls):
        predicted = torch.full((support,), (c + 1) % classes)
        predicted[: round(recall * support)] = c
        balancer.observe(torch.eye(classes)[predicted], torch.full((support,), c))


def weights_of_loss(balancer):
    return np.array([float(balancer.loss(torch.zeros(1, 3), [c])) for c in range(3)])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("sampler", ["auto", None])
@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["ids", "labels"])
def test_every_policy_by_name_runs_by_sampling_and_by_loss(policy, sampler, labels):
    if POLICIES[policy].needs_training_recalls and labels is SEVERAL:
        with pytest.raises(ValueError, match="one for labels, but got RecallLoss"):
            Balancer(labels, policy, sampler)
        return
    balancer = Balancer(labels, policy, sampler)
    for epoch in range(3):
        assert len(list(balancer.sampler)) == len(LABELS)
        logits = torch.zeros(4, 3, requires_grad=True)
        balancer.loss(logits, torch.from_numpy(labels[:4])).backward()
        assert torch.isfinite(logits.grad).all()
        log_weight = balancer.log_weight
        observed(balancer, [0.9, 0.6, 0.3])
        balancer.step()
        assert balancer.epoch == epoch + 1
        row = balancer.history[epoch]
        assert row["log_weight"] == log_weight.tolist()
        assert row["recalls"] == pytest.approx([0.9, 0.6, 0.3])
        assert row["mean_recall"] == pytest.approx(0.6)
        assert row["lowest_recall"] == pytest.approx(0.3)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_shares_add_up_and_nothing_is_counted_twice(share):
    """Expected weight of class c over the draws: natural share × exp(λ), however it is split."""
    balancer = Balancer(
        LABELS, RecallPower(4, recalls=[0.9, 0.6, 0.3]), sampler_share=share, num_samples=10**6
    )
    drawn = balancer.sampler.quotas / balancer.sampler.num_samples
    weight = drawn * weights_of_loss(balancer)
    expected = COUNTS * np.exp(balancer.log_weight)
    assert np.allclose(weight / weight.sum(), expected / expected.sum(), atol=1e-5)


def test_without_a_sampler_every_example_comes_once_and_the_loss_carries_all():
    balancer = Balancer(LABELS, "inverse-frequency", sampler=None)
    assert sorted(balancer.sampler) == list(range(100))
    weights, expected = weights_of_loss(balancer), inverse_frequency(COUNTS)
    assert np.allclose(weights / weights[0], expected / expected[0])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("loss", [None, LogitAdjustedCrossEntropy()])
def test_correct_restores_plain_posteriors(share, loss):
    """A net at the optimum of sampling × loss, corrected, gives the natural log-posteriors."""
    balancer = Balancer(LABELS, "inverse-frequency", loss=loss, sampler_share=share)
    natural = torch.log_softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), 1)
    as_trained = natural + torch.from_numpy(balancer.log_weight).float() + 3.0
    corrected = torch.log_softmax(balancer.correct(as_trained), 1)
    assert torch.allclose(corrected, natural, atol=1e-5)
    balancer.fit_decision(as_trained, torch.tensor([0, 1, 2, 0, 1]), objective="accuracy")
    assert torch.equal(balancer.decide(as_trained), natural.argmax(1))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_correct_undoes_the_weights_the_network_learnt_under(share):
    """After `step`, the next epoch's λ is undone only once it is trained on."""
    balancer = Balancer(LABELS, EqualRecall(start=0), sampler_share=share)
    zeros = torch.zeros(1, 3)
    assert torch.equal(balancer.correct(zeros), zeros)
    observed(balancer, [0.9, 0.6, 0.3])
    balancer.step()
    assert torch.equal(balancer.correct(zeros), zeros)
    balancer.loss(zeros, torch.tensor([0]))
    expected = -torch.from_numpy(balancer.log_weight).float()
    assert torch.allclose(balancer.correct(zeros)[0], expected)
    # whoever trains with a loss of their own has trained by the next step
    observed(balancer, [0.9, 0.6, 0.3])
    balancer.step()
    assert torch.allclose(balancer.correct(zeros)[0], expected)


@pytest.mark.parametrize("name", ["hardest-examples", "loss-pruning", "selective-backprop"])
def test_mining_by_name_trains_and_resumes(name):
    """Two epochs, a state saved in between, and the same third epoch from both."""
    points = torch.eye(3)[LABELS] + 0.3 * torch.randn(
        100, 3, generator=torch.Generator().manual_seed(0)
    )
    data = TensorDataset(points, torch.as_tensor(LABELS), torch.arange(100))
    torch.manual_seed(0)
    model = nn.Linear(3, 3)

    def epoch(balancer):
        losses = []
        loader = DataLoader(data, batch_size=10, sampler=balancer.sampler)
        for x, y, *indices in balancer.mine(loader, model):
            losses.append(balancer.loss(model(x), y, *indices))
            losses[-1].backward()
        balancer.observe(model(points), data.tensors[1])
        balancer.step()
        return torch.stack(losses).detach()

    balancer, other = Balancer(LABELS, mining=name), Balancer(LABELS, mining=name)
    for _ in range(2):
        epoch(balancer)
    other.load_state_dict(saved(balancer.state_dict()))
    assert torch.equal(epoch(balancer), epoch(other))
    row = balancer.history[-1]["mining"]
    assert 0 < row["num_kept"] < 100
    assert other.history == balancer.history


def test_the_closed_loop_half_draws_and_half_shifts_the_logits():
    """It starts where the shares of the classes and the logits' shifts even the counts out."""
    for balancer in (Balancer(LABELS), Balancer(LABELS, EqualRecall(), loss="logit-adjusted")):
        assert balancer.sampler_share == 0.5
        assert np.allclose(balancer.log_weight, -np.log(COUNTS) + np.log(COUNTS).mean())
        drawn = 100 * np.sqrt(COUNTS) / np.sqrt(COUNTS).sum()
        assert np.abs(balancer.sampler.quotas - drawn).max() < 1
        logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
        shifted = logits - torch.from_numpy(balancer.log_weight / 2).float()
        expected = torch.nn.functional.cross_entropy(shifted, targets)
        assert torch.allclose(balancer.loss(logits, targets), expected)


@pytest.mark.parametrize(
    "loss",
    ["balanced-softmax", "vector-scaling", WeightedCrossEntropy((1 / COUNTS).tolist())],
    ids=["balanced-softmax", "vector-scaling", "class weights"],
)
@pytest.mark.parametrize("policy", ["fair", "equal-recall", "inverse-frequency", "repeat-factor"])
def test_counts_that_are_in_the_loss_are_not_counted_again(policy, loss):
    """Inverse frequency on the sampler with balanced softmax used to take .14 of mean recall."""
    balancer = Balancer(LABELS, policy, loss=loss)
    assert np.abs(balancer.log_weight).max() < 1e-9
    assert balancer.sampler.quotas.tolist() == [60, 30, 10]


def test_a_part_of_the_counts_in_the_loss_leaves_the_rest():
    loss = WeightedCrossEntropy((COUNTS**-0.5).tolist())
    balancer = Balancer(LABELS, "inverse-frequency", loss=loss)
    whole = Balancer(LABELS, "inverse-frequency")
    assert np.allclose(balancer.log_weight, whole.log_weight / 2)
    even = Balancer([0, 1, 2] * 4, loss=WeightedCrossEntropy([1.0, 5.0, 1.0]))
    assert even.log_weight.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("policy", "sampler", "settings"),
    [
        ("inverse-frequency", MPerClassSampler(LABELS, 2, 6), {}),
        ("inverse-frequency", ClassBalancedSampler(LABELS), {"sampler_share": 0}),
        ("plain", ClassBalancedSampler(LABELS), {}),
    ],
)
def test_a_sampler_that_balances_is_left_alone_and_leaves_nothing_to_the_loss(
    policy, sampler, settings
):
    balancer = Balancer(LABELS, policy, sampler, **settings)
    plain = torch.log(torch.tensor(COUNTS / COUNTS.sum()))
    for _ in range(2):
        assert balancer.sampler_share == 0
        assert np.abs(balancer.log_weight).max() < 1e-6
        assert np.ptp(np.bincount(LABELS[list(balancer.sampler)])) <= 1
        corrected = balancer.correct(torch.zeros(1, 3, dtype=torch.float64))[0]
        assert torch.allclose(torch.log_softmax(corrected, 0), plain, atol=1e-6)
        balancer.step()


def test_a_sampler_whose_share_is_1_takes_its_weights_from_the_balancer():
    balancer = Balancer(LABELS, "plain", ClassBalancedSampler(LABELS), sampler_share=1)
    assert np.bincount(LABELS[list(balancer.sampler)]).tolist() == [60, 30, 10]


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"policy": "inverse-frequency"}, 1.0),
        ({"policy": "worst-class"}, 1.0),
        ({"loss": "focal"}, 1.0),
        ({"loss": "weighted-cross-entropy"}, 1.0),
        ({"sampler": None}, 0.0),
        ({"sampler_share": 1}, 1.0),
        ({"targets": SEVERAL, "policy": "equal-recall"}, 1.0),
    ],
)
def test_else_the_sampler_carries_all(settings, share):
    assert Balancer(**{"targets": LABELS} | settings).sampler_share == share


@pytest.mark.filterwarnings("ignore:Of 3 classes these have no example")
def test_a_class_without_examples_is_left_alone():
    balancer = Balancer([0, 0, 0, 2])
    assert balancer.log_weight[1] == 0
    assert balancer.sampler.quotas[1] == 0
    observed(balancer, [0.9, 0.0, 0.3])
    balancer.step()
    assert balancer.log_weight[1] == 0
    assert balancer.log_weight[2] > balancer.log_weight[0]


def test_price_is_what_balance_costs_and_negative_where_it_gains():
    balancer = Balancer(LABELS, "inverse-frequency")
    balancer.step()
    assert balancer.history[0]["price"] is None
    logits, targets = torch.zeros(3, 3), torch.arange(3)
    logits[2, 2] = 1.0  # right as trained; below the first class once λ is removed
    balancer.observe(logits, targets)
    balancer.step()
    assert balancer.history[1]["mean_recall"] == pytest.approx(2 / 3)
    assert balancer.history[1]["price"] == pytest.approx(1 / 3 - 2 / 3)


def test_the_log_weight_of_a_class_that_the_hold_out_lacks_stays():
    balancer = Balancer(np.repeat([0, 1, 2], 50), names=["ant", "bee", "cow"])
    for c, recall in ((0, 0.9), (1, 0.4)):
        predicted = torch.full((100,), 1 - c)
        predicted[: round(100 * recall)] = c
        balancer.observe(torch.eye(3)[predicted], torch.full((100,), c))
    with pytest.warns(UserWarning, match="no example of 'cow'"):
        balancer.step()
    before = balancer.log_weight
    assert before[1] > before[0]
    assert before[2] == pytest.approx(0, abs=0.06)


def test_a_class_that_does_not_respond_goes_back_and_is_named():
    balancer = Balancer(np.repeat([0, 1, 2, 3], 50), names=["ant", "bee", "cow", "dog"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(14):
            observed(balancer, [0.9, 0.8, 0.0, 0.9])
            balancer.step()
    named = [str(w.message) for w in caught if "'cow' does not rise" in str(w.message)]
    assert len(named) == 1
    assert balancer.sampler.quotas[2] < 60
    assert max(row["log_weight"][2] for row in balancer.history) > np.log(2)


def test_losses_and_policies_are_copied_and_samplers_belong_to_one_balancer():
    loss, policy = LogitAdjustedCrossEntropy(), EqualRecall()
    one, other = (Balancer(LABELS, policy, loss=loss) for _ in range(2))
    observed(one, [0.9, 0.6, 0.3])
    one.step()
    logits = torch.zeros(1, 3)
    assert not torch.equal(one.loss(logits, [2]), other.loss(logits, [2]))
    assert loss.log_weight is None
    with pytest.raises(TypeError, match="Expected loss"):
        Balancer(LABELS, loss=nn.CrossEntropyLoss())
    sampler = ClassBalancedSampler(LABELS)
    first = Balancer(LABELS, sampler=sampler)
    with pytest.raises(ValueError, match="Expected sampler to be one that no other Balancer"):
        Balancer(LABELS, sampler=sampler)
    del first
    Balancer(LABELS, sampler=sampler)


class Backwards(OrderSampler):
    def draw(self, positions):
        return self.num_samples - 1 - positions


def test_a_sampler_of_ones_own_fits():
    balancer = Balancer(LABELS, sampler=Backwards(100, targets=LABELS))
    stream = iter(balancer.sampler)
    assert [next(stream) for _ in range(3)] == [99, 98, 97]
    assert balancer.sampler_share == 0
    observed(balancer, [0.9, 0.6, 0.3])
    balancer.step()
    logits = torch.randn(4, 3)
    assert torch.isfinite(balancer.loss(logits, torch.tensor([0, 1, 2, 0])))


def test_a_state_holds_the_history_as_tensors():
    """As lists, ten epochs of 100,000 classes took 5.9 s to save, and as long to load."""
    balancer = Balancer(LABELS, mining="hardest-examples")
    for _ in range(2):
        observed(balancer, [0.9, 0.6, 0.3])
        balancer.step()

    def lists(value):
        if isinstance(value, dict):
            return sum(map(lists, value.values()))
        return isinstance(value, list)

    state = saved(balancer.state_dict())
    assert sum(map(lists, state["history"])) == 0
    assert state["history"][1]["recalls"].dtype == torch.float64
    other = Balancer(LABELS, mining="hardest-examples")
    other.load_state_dict(state)
    assert other.history == balancer.history
    assert isinstance(other.history[1]["recalls"], list)
    assert isinstance(other.history[1]["support"][0], int)


def test_a_loss_that_is_never_called_is_not_corrected_for():
    """900 : 100, half of λ in a loss that nobody calls: `correct` removed a shift of it."""
    labels = np.repeat([0, 1], [900, 100])
    balancer = Balancer(labels, "inverse-frequency", sampler_share=0.5)
    drawn = np.bincount(labels[list(balancer.sampler)])
    with pytest.warns(UserWarning, match=r"balancer\.loss was not called.*sampler_share=1"):
        observed(balancer, [0.9, 0.6])
    balancer.step()
    corrected = balancer.correct(torch.log(torch.tensor(drawn / 1000)[None])).softmax(1)
    assert torch.allclose(corrected, torch.tensor([[0.9, 0.1]]).double(), atol=2e-3)
    other = Balancer(labels, "inverse-frequency", sampler_share=0.5)
    other.load_state_dict(saved(balancer.state_dict()))
    assert torch.equal(other.correct(torch.zeros(1, 2)), balancer.correct(torch.zeros(1, 2)))
    other.loss(torch.zeros(1, 2), torch.tensor([0]))  # from now on it is in the network
    whole = torch.tensor([[9.0, 1.0]]).log()
    both = other.correct(torch.zeros(1, 2)) - whole
    assert both[0, 0] == pytest.approx(float(both[0, 1]), abs=1e-5)


def test_an_explicit_repeat_and_a_loss_that_raises_do_not_count():
    balancer = Balancer(LABELS, seed=3)
    ids = list(balancer.sampler)
    logits = torch.zeros(10, 3)
    balancer.loss(logits, LABELS[ids[:10]])
    balancer.loss(logits, LABELS[ids[10:20]], new_batch=False)
    with pytest.raises(ValueError, match="Expected"):
        balancer.loss(logits, LABELS[ids[10:15]])
    assert balancer.position == 10
    balancer.loss(logits, LABELS[ids[10:20]])
    assert balancer.position == 20


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (LABELS, {"policy": EqualRecall(), "num_samples": 77, "sampler_share": 0.5}),
        (SEVERAL, {"policy": EqualRecall(), "num_samples": 77, "sampler_share": 0.5}),
        (LABELS, {"groups": np.arange(100) % 2}),
    ],
    ids=["ids", "labels", "groups"],
)
def test_state_goes_on_bit_for_bit(labels, settings):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 3, generator=generator) + torch.from_numpy(SEVERAL)
    targets = torch.from_numpy(labels)

    def seen(balancer):
        groups = (settings["groups"],) if "groups" in settings else ()
        balancer.observe(torch.randn(100, 3, generator=generator) + logits, targets, *groups)

    balancer, other = Balancer(labels, **settings), Balancer(labels, **settings)
    for _ in range(2):
        seen(balancer)
        balancer.step()
    stream = iter(balancer.sampler)
    begun = [next(stream) for _ in range(20)]
    seen(balancer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a small hold-out
        balancer.fit_decision(logits, targets)
    other.load_state_dict(saved(balancer.state_dict()))
    assert begun + list(other.sampler) == balancer.sampler.indices().tolist()
    for one in (balancer, other):
        one.step()
    assert np.array_equal(other.log_weight, balancer.log_weight)
    assert list(other.sampler) == list(balancer.sampler)
    assert other.history == balancer.history
    for call in (Balancer.decide, Balancer.correct):
        assert torch.equal(call(other, logits), call(balancer, logits))
    assert torch.equal(other.loss(logits, targets), balancer.loss(logits, targets))


def state_of(targets=LABELS, change=None, **settings):
    state = Balancer(targets, **settings).state_dict()
    if change is not None:
        change(state)
    return state


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": [0, 1, 0, 1]}, "num_classes 3, but got 2"),
        ({"targets": LABELS[::-1].copy()}, "checksum of targets"),
        ({"groups": LABELS % 2}, "checksum of cells"),
        ({"policy": "worst-class"}, "policy 'Fair', but got 'WorstClass'"),
        ({"sampler_share": 1.0}, "sampler_share 0.5, but got 1.0"),
        ({"loss": "focal", "sampler_share": 0.5}, "loss .*, but got 'FocalLoss'"),
        ({"mining": "hardest-examples"}, "mining .*, but got 'HardestExamples'"),
        ({"seed": 1}, "seed 0, but got 1"),
        ({"num_samples": 4}, "num_samples 100, but got 4"),
        ({"change": lambda s: s.update(version=99)}, f"version {VERSION}, .* 99: .* a later"),
        ({"change": lambda s: s.pop("version")}, f"version {VERSION}, .* 1: .* an earlier"),
        ({"change": lambda s: s.pop("rates")}, r".*one without \['rates'\]"),
        ({"change": lambda s: s.clear()}, "state of a Balancer, as state_dict"),
    ],
)
def test_another_state_is_refused_and_nothing_changes(settings, words):
    balancer = Balancer(LABELS)
    before = str(balancer.state_dict())
    with pytest.raises(ValueError, match=words):
        balancer.load_state_dict(state_of(**settings))
    assert str(balancer.state_dict()) == before


@pytest.mark.filterwarnings("ignore:The hold-out has")
def test_arrays_are_as_good_as_tensors():
    balancer = Balancer(LABELS)
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(balancer.loss(logits, LABELS))
    balancer.observe(logits.numpy(), LABELS)
    balancer.fit_decision(logits.numpy(), LABELS)
    assert torch.equal(balancer.decide(logits.numpy()), balancer.decide(logits))
    balancer.step()


def test_names_where_ids_are_expected():
    balancer = Balancer([["cat"], ["dog"], ["cat"]])  # a single column of a table
    assert balancer.targets.names == ["cat", "dog"]
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    for names in (("cat", "dog"), np.array(["cat", "dog"]), pd.Series(["cat", "dog"], [7, 9])):
        assert balancer.loss(logits, names) == balancer.loss(logits, torch.tensor([0, 1]))
        balancer.observe(logits, names)
        balancer.fit_decision(logits.repeat(99, 1), [*names] * 99)
    for ids in (pd.Series([0, 1]), pd.Series([1, 0])[::-1], pd.Series([0, 1], dtype=object)):
        assert balancer.loss(logits, ids) == balancer.loss(logits, torch.tensor([0, 1]))
    for call in (balancer.loss, balancer.observe):
        with pytest.raises(ValueError, match=r"known \('cat', 'dog'\), but got 'owl'"):
            call(logits, ("cat", "owl"))
    with pytest.raises(ValueError, match=r"numbers alone\), but got 'cat'"):
        Balancer([0, 1]).loss(logits, ("cat", "dog"))


def test_one_logit_for_two_classes():
    with pytest.raises(ValueError, match=r"give the Balancer targets \(N, 1\)"):
        Balancer([0, 1, 1]).loss(torch.zeros(3, 1), torch.tensor([0, 1, 1]))
    assert Balancer([[0], [1], [1]]).loss(torch.zeros(3, 1), torch.tensor([[0], [1], [1]])) > 0


def test_classes_that_the_decision_lacks_are_named():
    balancer = Balancer(["cat", "dog", "owl"] * 30)
    logits = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"get no offset: 'owl' \(1 of 3\)"):
        balancer.fit_decision(logits, torch.arange(400) % 2)


def test_nan_logits_are_counted_and_reported():
    balancer = Balancer(LABELS)
    observed(balancer, [0.9, 0.6, 0.3])
    balancer.observe(torch.full((7, 3), float("nan")), torch.zeros(7, dtype=torch.long))
    with pytest.warns(UserWarning, match="7 examples with NaN logits"):
        balancer.step()
    assert balancer.history[0]["num_nan"] == 7
    assert balancer.history[0]["recalls"] == pytest.approx([0.9, 0.6, 0.3])


def test_step_without_observe_is_an_error_where_recalls_are_needed():
    balancer = Balancer(LABELS)
    with pytest.raises(RuntimeError, match="Expected observe"):
        balancer.step()
    assert balancer.epoch == 0
    Balancer(LABELS, "inverse-frequency").step()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"policy": "equal"}, "policy to be one of"),
        ({"sampler": "balanced"}, "sampler"),
        ({"sampler": MPerClassSampler(LABELS, 2, 6), "sampler_share": 1}, "sampler_share"),
        ({"loss": WeightedCrossEntropy(log_weight=[0.0, 1.0, 2.0])}, "loss to come without"),
        ({"sampler_share": 1.5}, "sampler_share"),
        ({"sampler": None, "sampler_share": 0.5}, "sampler_share"),
        ({"mining": "ohem"}, "mining to be one of 'hardest-examples'"),
        ({"mining": HardNegatives()}, "mining to be one for class ids"),
        ({"loss": "focus"}, "loss to be one of 'weighted-cross-entropy'"),
        ({"loss": "asymmetric"}, "loss to be one for class ids"),
        ({"loss": WeightedBCE()}, "loss to be one for class ids"),
        ({"seed": -1}, "seed"),
        ({"sampler": ClassBalancedSampler(LABELS[:50])}, "sampler to draw from 100 examples"),
        ({"sampler": ClassBalancedSampler(LABELS), "seed": 3}, "seed to be given to the"),
        ({"sampler": "label-balanced"}, "sampler"),
        ({"targets": SEVERAL, "sampler": "class-balanced"}, "sampler"),
        ({"targets": SEVERAL, "loss": WeightedCrossEntropy()}, "loss to be one for multilabel"),
        ({"targets": np.ones((5, 2))}, "targets of Balancer to have a class that some examples"),
    ],
)
def test_bad_arguments_are_named(settings, words):
    with pytest.raises(ValueError, match=f"Expected {words}"):
        Balancer(**{"targets": LABELS} | settings)


WRONG_SHAPE = (torch.zeros(100, 4), LABELS)


@pytest.mark.parametrize(
    ("targets", "call", "words"),
    [
        (LABELS, lambda b: b.observe(*WRONG_SHAPE), "logits"),
        (LABELS, lambda b: b.correct(WRONG_SHAPE[0]), r"logits to have shape \(N, 3\)"),
        (LABELS, lambda b: b.decide(WRONG_SHAPE[0]), r"logits to have shape \(N, 3\)"),
        (LABELS, lambda b: b.loss(*WRONG_SHAPE), r"logits to have shape \(N, 3\)"),
        (LABELS, lambda b: b.fit_decision(*WRONG_SHAPE), r"logits to have shape \(N, 3\)"),
        (LABELS, lambda b: b.fit_decision(torch.eye(3), range(3), "f2"), "objective"),
        (SEVERAL, lambda b: b.observe(torch.zeros(2, 3), torch.zeros(2, 2)), "targets"),
        (SEVERAL, lambda b: b.fit_decision(torch.zeros(2, 3), torch.zeros(2, 2)), "logits"),
        (SEVERAL, lambda b: b.fit_decision(torch.eye(3), torch.eye(3), "accuracy"), "objective"),
    ],
)
def test_bad_calls_are_named(targets, call, words):
    with pytest.raises(ValueError, match=f"Expected {words}"):
        call(Balancer(targets))


@pytest.mark.filterwarnings("ignore:Balance costs much mean recall")
def test_the_loop_equalises_recalls_of_a_small_classifier():
    """A linear classifier on overlapping, equally frequent blobs: one of them is harder."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[3.0, 0.0], [-1.0, 0.6], [-1.0, -0.6]])
    labels = torch.arange(3000) % 3
    spread = torch.tensor([1.0, 0.7, 1.4])[labels][:, None]
    points = centres[labels] + spread * torch.randn(3000, 2, generator=generator)
    train, held = (torch.from_numpy(part) for part in holdout_split(labels, 0.4))

    spreads = {}
    for policy in ("plain", "equal-recall"):
        torch.manual_seed(0)
        model = nn.Linear(2, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        balancer = Balancer(labels[train], policy)
        data = TensorDataset(points[train], labels[train])
        loader = DataLoader(data, batch_size=100, sampler=balancer.sampler)
        for _ in range(30):
            for x, y in loader:
                balancer.loss(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
            balancer.observe(model(points[held]), labels[held])
            balancer.step()
        spreads[policy] = balancer.history[-1]["sd_recall"]
    assert spreads["plain"] > 0.1
    assert spreads["equal-recall"] < 0.04


@pytest.mark.parametrize("labels", [LABELS, SEVERAL])
def test_plain_shuffling_can_be_pruned(labels):
    balancer = Balancer(labels, "plain", sampler=None, mining="loss-pruning")
    drawn = list(balancer.sampler)
    assert len(set(drawn)) == len(drawn) == 50
    balancer.step()
    assert len(list(balancer.sampler)) == 50
