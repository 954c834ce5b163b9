"""`equipoise decide`: what is read, printed and written, and scores that are wrong."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from equipoise.decision import ClassDecision, LabelDecision, fit_class_decision, fit_label_decision
from tests.test_cli import is_one_line, json_of, run, write

pytestmark = pytest.mark.filterwarnings("ignore:Columns .* are left out")
NAMES = ["cat", "dog", "owl"]
GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(900) % 3
Z = torch.randn(900, 3, generator=GENERATOR) + 1.5 * torch.eye(3)[Y] + torch.tensor([1.0, 0, -1])
P = Z.double().softmax(1).numpy()
HOT = (torch.rand(500, 3, generator=GENERATOR) < torch.tensor([0.6, 0.3, 0.1])).to(torch.uint8)
ZHOT = torch.randn(500, 3, generator=GENERATOR) + 2 * HOT - 2


def table(path, scores, targets, *first):
    """Scores as text or Parquet, by pandas."""
    frame = pd.DataFrame(np.asarray(scores), columns=NAMES)
    if first:
        frame.insert(0, *first)
    frame["target"] = targets
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=not first, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def decided(*arguments):
    return json_of("decide", *arguments)


@cache
def decided_by_hand():
    return fit_class_decision(Z, Y)


ARRAYS = {
    "logits": {"logits": Z.numpy(), "targets": Y.numpy()},
    "half": {"logits": Z.half().numpy(), "targets": Y.numpy().astype(float)[:, None]},
    "probabilities": {"probabilities": P, "target": Y.numpy(), "class_names": np.array(NAMES)},
}
TABLES = {
    "index.csv": (P, [NAMES[c] for c in Y]),
    "file.csv": (Z, [NAMES[c] for c in Y], "file", [f"{i}.jpg" for i in range(900)]),
    "positions.tsv": (Z, Y.tolist()),
    "names.parquet": (P, [NAMES[c] for c in Y]),
}


@pytest.mark.parametrize("kind", [*ARRAYS, *TABLES])
def test_every_kind_of_file_gives_the_same_offsets(kind, tmp_path):
    if kind in ARRAYS:
        np.savez(path := tmp_path / "scores.npz", **ARRAYS[kind])
    else:
        path = table(tmp_path / kind, *TABLES[kind])
    found = decided(path)
    expected = decided_by_hand()
    np.testing.assert_allclose(found["offset"], expected.values, atol=0.02)
    assert found["alpha"] == expected.alpha > 0
    assert found["classes"] == (["0", "1", "2"] if kind in ("logits", "half") else NAMES)
    assert [row["chosen"] for row in found["front"]].count(True) == 1


def test_columns_of_ids_are_no_classes(tmp_path):
    """Also where targets are positions, which a column more would shift."""
    for targets in ([NAMES[c] for c in Y], Y.tolist()):
        for scores in (P, Z):
            path = table(tmp_path / "ids.csv", scores, targets, "id", range(1000, 1900))
            found = decided(path, "--test", path)
            np.testing.assert_allclose(found["offset"], decided_by_hand().values, atol=0.02)
            assert found["classes"] == NAMES


def test_numbered_columns_and_rounded_probabilities(tmp_path):
    frame = pd.DataFrame(np.round(P, 2)).assign(target=Y.numpy())
    frame.to_csv(path := tmp_path / "numbers.csv")
    assert decided(path)["classes"] == ["0", "1", "2"]
    frame.iloc[4, 1] = np.nan
    frame.to_csv(path)
    result = run("decide", path)
    assert "but got '' in column '1', row 5" in result.output


def test_one_score_for_two_classes(tmp_path):
    frame = pd.DataFrame({"score": ZHOT[:, 0].numpy(), "target": HOT[:, 0].numpy()})
    frame.to_csv(path := tmp_path / "one.csv", index=False)
    np.savez(arrays := tmp_path / "one.npz", logits=ZHOT[:, :1], targets=HOT[:, :1])
    assert decided(path)["values"] == pytest.approx(decided(arrays)["values"], abs=1e-4)


def test_names_as_targets_of_arrays(tmp_path):
    names = np.array(NAMES)
    np.savez(path := tmp_path / "s.npz", logits=Z, targets=names[Y], class_names=names)
    np.testing.assert_allclose(decided(path)["offset"], decided_by_hand().values, atol=0.02)


def test_objectives_and_points(tmp_path):
    np.savez(path := tmp_path / "s.npz", logits=Z, targets=Y)
    chosen = {row["alpha"] for row in decided(path, "--alpha", "3")["front"] if row["chosen"]}
    assert chosen == {3.0}
    equal = decided(path, "--objective", "equal-recall")
    assert [row["alpha"] for row in equal["front"] if row["chosen"]] == [None]
    assert decided(path, "--objective", "accuracy")["offset"] == [0, 0, 0]
    free = decided(path, "--max-price", "1")
    assert free["alpha"] == max(row["alpha"] or 0 for row in free["front"])


def test_a_test_set_is_judged_and_decided(tmp_path):
    np.savez(tmp_path / "held.npz", logits=Z[:600], targets=Y[:600], class_names=np.array(NAMES))
    np.savez(tmp_path / "test.npz", logits=Z[600:], targets=Y[600:])
    files = {"--picture": tmp_path / "f.png", "--out": tmp_path / "o.json"}
    files["--apply"] = tmp_path / "d.csv"
    options = [word for pair in files.items() for word in pair]
    shown = run("decide", tmp_path / "held.npz", "--test", tmp_path / "test.npz", *options)
    assert shown.exit_code == 0, shown.output
    for words in ("← chosen", "as scored", "best mean", "decided", "∞", "owl"):
        assert words in shown.stdout
    assert files["--picture"].read_bytes().startswith(b"\x89PNG")
    decision = ClassDecision.load(files["--out"])
    assert torch.equal(decision.values, fit_class_decision(Z[:600], Y[:600]).values)
    rows = files["--apply"].read_text().splitlines()
    assert rows == ["decided", *(NAMES[c] for c in decision(Z[600:]))]
    record = decided(tmp_path / "held.npz", "--test", tmp_path / "test.npz")
    hits = [(decision(Z[600:])[Y[600:] == c] == c).double().mean() for c in range(3)]
    row = record["test"][2]
    np.testing.assert_allclose(row["recalls"], hits, atol=1e-6)
    assert row["price"] == pytest.approx(record["test"][1]["mean"] - row["mean"], abs=1e-5)


def test_several_labels(tmp_path):
    np.savez(tmp_path / "held.npz", logits=ZHOT[:300], targets=HOT[:300])
    cells = ["|".join(NAMES[c] for c in row.nonzero()[:, 0]) for row in HOT[:300]]
    table(tmp_path / "held.csv", ZHOT[:300].double().sigmoid(), cells)
    expected = fit_label_decision(ZHOT[:300], HOT[:300], "f1")
    for name in ("held.npz", "held.csv"):
        found = decided(tmp_path / name, "--objective", "f1")
        np.testing.assert_allclose(found["values"], expected.values, atol=1e-4)
    np.savez(tmp_path / "new.npz", logits=ZHOT[300:])
    files = ["--out", tmp_path / "o.json", "--apply", tmp_path / "d.npz"]
    shown = run("decide", tmp_path / "held.npz", "--test", tmp_path / "new.npz", *files)
    assert shown.exit_code == 0, shown.output
    assert "as scored" in shown.stdout
    decision = LabelDecision.load(tmp_path / "o.json")
    assert (np.load(tmp_path / "d.npz")["decided"] == decision(ZHOT[300:]).numpy()).all()
    np.savez(tmp_path / "test.npz", logits=ZHOT[300:], targets=HOT[300:])
    found = decided(tmp_path / "held.npz", "--test", tmp_path / "test.npz")["test"][1]
    assert found["predicted"] == decision(ZHOT[300:]).sum(0).tolist()
    assert found["positives"] == HOT[300:].sum(0).tolist()


def test_top_k(tmp_path):
    np.savez(path := tmp_path / "held.npz", logits=ZHOT, targets=HOT)
    options = ["--objective", "top-k", "--k", "1", "--max-price"]
    found = decided(path, *options, ".05", "--out", tmp_path / "o.json")
    assert found["rate"] > 0
    rows = {row["name"]: row for row in found["holdout"]}
    assert sum(rows["decided"]["predicted"]) == len(HOT)
    assert rows["decided"]["macro recall"] > rows["as scored"]["macro recall"]
    (chosen,) = (row for row in found["front"] if row["chosen"])
    price = rows["as scored"]["micro precision"] - rows["decided"]["micro precision"]
    assert price == pytest.approx(chosen["price"], abs=1e-5)
    decision = LabelDecision.load(tmp_path / "o.json")
    assert decision.top(ZHOT).shape == (500, 1)
    assert decision(ZHOT).sum(0).tolist() == rows["decided"]["predicted"]
    assert "← chosen" in run("decide", path, *options, "0").stdout
    is_one_line(run("decide", path, "--objective", "top-k"), "Expected k for", "decide")


def test_a_label_that_is_never_predicted_is_kept_as_null(tmp_path):
    decision = LabelDecision("precision", torch.tensor([0.5, torch.inf]))
    decision.save(tmp_path / "o.json", ["a", "b"])
    assert json.loads((tmp_path / "o.json").read_text())["values"] == [0.5, None]
    assert torch.equal(LabelDecision.load(tmp_path / "o.json").values, decision.values)


Q = P[:4].copy()
BAD = {
    "no file": (None, "there is none at"),
    "empty.npz": (b"", "is empty"),
    "s.xlsx": (b"PK", "to end in .npz"),
    "damaged.npz": (b"PK12", "damaged or none"),
    "keys.npz": ({"x": Q, "targets": Y[:4]}, "either `logits` or `probabilities`, and `targets`"),
    "both.npz": ({"logits": Q, "probabilities": Q, "y": Y[:4]}, "either `logits` or"),
    "targets.npz": ({"logits": Q}, "to hold the hold-out's targets"),
    "flat.npz": ({"logits": Q[:, 0], "targets": Y[:4]}, "numbers (N, C)"),
    "rows.npz": ({"logits": Q, "targets": Y[:3]}, "to have shape (4,)"),
    "none.npz": ({"logits": Q[:0], "targets": Y[:0]}, "at least one row"),
    "high.npz": ({"logits": Q, "targets": Y[:4] + 1}, "class ids from 0 to 2, but got 3"),
    "hot.npz": ({"logits": Q, "targets": 2 * HOT[:4]}, "to be 0 and 1, but got"),
    "half.npz": ({"logits": Q, "targets": Y[:4] + 0.5}, "class ids from 0 to 2, but got 0.5"),
    "nan.npz": ({"logits": np.where(Q[2, 0] == Q, np.nan, Q), "targets": Y[:4]}, "is row 3"),
    "sum.npz": ({"probabilities": Q * 0.9, "targets": Y[:4]}, "add up to 0.900 (4 rows"),
    "range.npz": ({"probabilities": Q * 3, "targets": Y[:4]}, "call them `logits`"),
    "target.csv": ("cat,dog\n.5,.5\n", "targets: an array `targets`"),
    "name.csv": ("cat,dog,target\n.5,.5,cat\n.2,.8,cow\n", "but got 'cow'"),
    "cell.csv": ("cat,dog,target\n.5,.5,cat\n,.8,dog\n", "to be numbers, the score of each class"),
    "words.csv": ("file,target\na,cat\nb,dog\n", "a column of numbers for each class"),
    "sums.csv": ("cat,dog,target\n.5,.5,cat\n.2,.3,dog\n", "those of row 2 add up to 0.500"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_scores_are_one_line(name, tmp_path):
    content, words = BAD[name]
    if content is not None:
        write(tmp_path / name, content)
    is_one_line(run("decide", tmp_path / name), words, "decide")


def test_what_does_not_go_together(tmp_path):
    np.savez(one := tmp_path / "one.npz", logits=Z, targets=Y)
    np.savez(hot := tmp_path / "hot.npz", logits=ZHOT, targets=HOT)
    np.savez(two := tmp_path / "two.npz", logits=Z[:, :2], targets=Y % 2)
    is_one_line(run("decide", one, "--test", two), "to have the classes of", "decide")
    is_one_line(run("decide", one, "--test", hot), "to have shape (500,)", "decide")
    is_one_line(run("decide", hot, "--alpha", "4"), "has several labels", "decide")
    is_one_line(run("decide", one, "--at-least", ".5"), "has class ids", "decide")
    is_one_line(run("decide", one, "--objective", "f1"), '"iou" or "accuracy"', "decide")
    is_one_line(run("decide", one, "--out", tmp_path / "no" / "o"), "does not exist", "decide")
    for wrong in (["--apply", tmp_path / "d.csv"], ["--test", one, "--apply", tmp_path / "d.txt"]):
        assert run("decide", one, *wrong).exit_code == 2
