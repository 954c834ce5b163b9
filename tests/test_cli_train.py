"""`equipoise train`, `compare`, `report`: what is written and printed, resuming, errors."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import recall_score
from typer.testing import CliRunner

from equipoise.cli import app
from equipoise.report import Report
from equipoise.training import Settings, load_model, read_data, settings_of_method, train_run

SMALL = ["--epochs", "2", "--width", "16"]
FILES = ["balancer.pt", "model.pt", "report.html", "report.json", "run.json"]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def is_one_line(result, command, words):
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert f"equipoise {command}: " in result.stderr.splitlines()[-1], result.stderr
    assert re.search(words, result.stderr.splitlines()[-1]), result.stderr
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Features of 600 digits, 0 to 3 of them, 3 rare."""
    x, y = load_digits(n_class=4, return_X_y=True)
    kept = (y < 3) | (np.arange(len(y)) % 3 == 0)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    names = np.array(["none", "one", "two", "[red]three"])
    np.savez(path, x=x[kept].astype(np.float32), y=y[kept], class_names=names)
    return path


@pytest.fixture(scope="session")
def labels(tmp_path_factory):
    """Features of 400 made examples with 3 labels, split 300 to 100."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x[:, :3] + 0.5 * rng.normal(size=(400, 3)) > [0, 0.5, 1]).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "labels.npz"
    np.savez(path, X=x, Y=y, split=(np.arange(400) >= 300).astype(np.int8))
    return path


@pytest.fixture(scope="session")
def finished(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    result = run("train", digits, "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    return out, result


def test_what_a_run_writes(finished, digits):
    out, result = finished
    assert sorted(path.name for path in out.iterdir()) == FILES
    for words in ("as trained", "decided", "mean", "lowest", "accuracy", "report.html"):
        assert words in result.stdout
    assert re.findall(r"epoch (\d)/2 ", result.stderr) == ["1", "2"]
    record = json.loads((out / "run.json").read_text())
    assert (record["state"], record["settings"]["epochs"]) == ("finished", 2)
    assert record["chosen"] | {"net": "mlp", "width": 16, "device": "cpu"} == record["chosen"]
    assert record["names"][3] == "[red]three"
    assert len(record["history"]) == 2
    report = Report.from_dict(json.loads((out / "report.json").read_text()))
    assert report.names == record["names"]

    # The results are those of the network that was saved, on examples it was not trained on
    data = read_data(digits)
    parts = [data.train, data.held, data.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(data.inputs)))
    with np.load(digits) as z:
        logits = load_model(out)(torch.from_numpy(z["x"][data.test]))
        truth = z["y"][data.test]
    recalls = recall_score(truth, logits.argmax(1).numpy(), average=None)
    found = record["results"]["as_trained"]
    assert found["recalls"] == pytest.approx(recalls)
    assert found["mean_recall"] == pytest.approx(recalls.mean())
    assert found["sd_recall"] == pytest.approx(recalls.std())
    assert found["lowest_recall"] == pytest.approx(recalls.min())


def test_a_finished_run_says_so(finished, digits):
    out, first = finished
    again = run("train", digits, "--out", out, *SMALL, "--resume")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert "is finished already" in again.stderr
    is_one_line(run("train", digits, "--out", out), "train", "holds a run: go on .* --resume")
    other = run("train", digits, "--out", out, "--resume", "--epochs", "3")
    is_one_line(other, "train", "Expected --epochs to be 2, as the run in .*, but got 3")


def test_report(finished, tmp_path):
    out, _ = finished
    page = tmp_path / "page.html"
    shown = run("report", out, "--html", page)
    assert shown.exit_code == 0
    assert "decided" in shown.stdout
    assert "[red]three" in page.read_text(encoding="utf-8")
    printed = json.loads(run("report", out, "--json").stdout)
    assert printed == json.loads((out / "report.json").read_text())
    is_one_line(run("report", tmp_path / "none"), "report", "folder of a run")
    is_one_line(run("report", tmp_path), "report", "No such file.*run.json")
    (tmp_path / "run.json").write_text("{}")
    is_one_line(run("report", tmp_path), "report", "to be of a run, format 1")
    (tmp_path / "run.json").write_text("{")
    is_one_line(run("report", tmp_path), "report", "to be JSON")


def test_labels(labels, tmp_path):
    result = run("train", labels, "--out", tmp_path / "run", *SMALL, "--objective", "f1", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record == json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["examples"] == {"training": 240, "hold-out": 60, "test": 100}
    assert result.stderr == ""
    for row in record["results"].values():
        assert 0.3 < row["macro_auprc"] <= 1
        assert len(row["predicted_over_true"]) == 3
    shown = run("train", labels, "--out", tmp_path / "run", *SMALL, "--objective", "f1", "--resume")
    for words in ("macro AUPRC", "macro F1", "predicted / true"):
        assert words in shown.stdout


def same(first, second):
    def timeless(record):
        rows = [{k: v for k, v in r.items() if "seconds" not in k} for r in record["history"]]
        return {**record, "history": rows, "seconds": 0}

    return timeless(first) == timeless(second)


@pytest.mark.parametrize("mining", [None, "loss-pruning", "selective-backprop"])
def test_going_on_gives_the_same(mining, digits, tmp_path):
    """Stopped in mid-epoch: results, history and weights of a run that was never stopped."""
    data = read_data(digits)
    settings = Settings(epochs=3, width=16, mining=mining)

    def stop(now):
        if (now.epoch, now.batch) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(data, tmp_path / "stopped", settings, progress=stop)
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["state"] == "running"
    torch.manual_seed(7)  # nothing outside matters, or is changed
    before = torch.get_rng_state()
    resumed = train_run(data, tmp_path / "stopped", settings, resume=True)
    assert torch.equal(before, torch.get_rng_state())
    whole = train_run(data, tmp_path / "whole", settings)
    assert same(resumed, whole)
    mine, theirs = (load_model(tmp_path / name).state_dict() for name in ("stopped", "whole"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_ctrl_c_in_a_real_process(digits, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "equipoise", "train", str(digits), "--out", str(out)]
    with subprocess.Popen(
        [*command, "--epochs", "50000", "--width", "8"],
        stderr=subprocess.PIPE,
        text=True,
        # Where pytest runs in the background, Ctrl-C is ignored by all it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "epoch 2/" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "Traceback" not in "".join(lines)
    again = f"go on with: equipoise train {digits} --out {out} --resume"
    assert again in lines[-1]
    assert (out / "checkpoint.pt").exists()
    is_one_line(run("report", out), "report", r"ended after \d+ of 50000 epochs")


def test_a_disk_that_is_full(digits, tmp_path):
    """The system refuses to write more: one line; with room again, the run goes on."""
    out, soft = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, soft[1]))
    try:
        result = run("train", digits, "--out", out, "--epochs", "2", "--width", "64")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    is_one_line(result, "train", "Expected room to write .*checkpoint.pt")
    assert sorted(path.name for path in out.iterdir()) == ["run.json"]
    result = run("train", digits, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    assert json.loads((out / "run.json").read_text())["settings"]["width"] == 64


def test_a_damaged_checkpoint(digits, tmp_path):
    data, settings = read_data(digits), Settings(epochs=2, width=16)

    def stop(now):
        if now.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(data, tmp_path / "run", settings, progress=stop)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    result = run("train", digits, "--out", tmp_path / "run", "--resume")
    is_one_line(result, "train", "checkpoint.*cannot be read")


def test_another_data_set_is_refused(digits, labels, tmp_path):
    def stop(now):
        if now.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(read_data(digits), tmp_path / "run", Settings(epochs=2), progress=stop)
    with np.load(digits) as z:
        np.savez(tmp_path / "other.npz", x=z["x"], y=z["y"][::-1], class_names=z["class_names"])
    for other in (tmp_path / "other.npz", labels):
        result = run("train", other, "--out", tmp_path / "run", "--resume")
        is_one_line(result, "train", "Expected (state|.*checkpoint)")


def test_compare(digits, tmp_path):
    out = tmp_path / "both"
    asked = ["compare", digits, "--method", "plain", "equal-recall+focal", "--seeds", "2"]
    result = run(*asked, "--out", out, "--epochs", "1", "--width", "8")
    assert result.exit_code == 0, result.output
    for words in ("2 seeds", "plain", "equal-recall", "as trained", "decided", "±", "compare.png"):
        assert words in result.stdout
    names = {f"{method}-{seed}" for method in ("plain", "equal-recall-focal") for seed in (0, 1)}
    assert {path.name for path in out.iterdir()} == names | {"compare.json", "compare.png"}
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "compare.json").read_text())
    runs = [json.loads((out / name / "run.json").read_text()) for name in ("plain-0", "plain-1")]
    means = [r["results"]["decided"]["mean_recall"] for r in runs]
    figure = found["summary"]["plain"]["decided"]["mean_recall"]
    assert (figure["mean"], figure["sd"]) == pytest.approx((np.mean(means), np.std(means, ddof=1)))
    report = json.loads((out / "equal-recall-focal-1" / "report.json").read_text())
    assert report["before"]["source"] == "baseline"

    assert json.loads(run("report", out, "--json").stdout) == found
    assert run("report", out).stdout in result.stdout
    is_one_line(run(*asked, "--out", out), "compare", "holds a comparison")
    again = run(*asked, "--out", out, "--epochs", "1", "--width", "8", "--resume", "--json")
    assert json.loads(again.stdout)["runs"] == found["runs"]


def test_methods():
    plain = settings_of_method("plain", Settings())
    assert (plain.policy, plain.loss, plain.mining) == ("plain", "cross-entropy", None)
    joined = settings_of_method("ldam+hardest-examples+worst-class", Settings(seed=3))
    assert (joined.policy, joined.loss, joined.seed) == ("worst-class", "ldam", 3)
    assert settings_of_method("balancer", Settings()) == Settings()
    for method, words in (("what", "unknown.*'what'"), ("plain+equal-recall", "second policy")):
        with pytest.raises(ValueError, match=words):
            settings_of_method(method, Settings())


WRONG = {
    "no out": (["train", "DATA"], "Missing option '--out'"),
    "no data": (["train", "--out", "x"], "Missing argument 'DATA'"),
    "policy": (["train", "DATA", "--out", "x", "--policy", "what"], "not one of plain, inverse"),
    "epochs": (["train", "DATA", "--out", "x", "--epochs", "0"], "greater than or equal to 1"),
    "labels": (["train", "DATA", "--out", "x", "--labels", "3"], "--labels is for .arff"),
    "method": (["compare", "DATA", "--out", "x", "--method", "what"], "Expected a method to be"),
    "report": (["report"], "Missing argument 'RUN'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage(name, digits, monkeypatch):
    arguments, words = WRONG[name]
    monkeypatch.setenv("COLUMNS", "300")
    result = run(*[str(digits) if a == "DATA" else a for a in arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.split())


UNFIT = {
    "net": (["--net", "cnn"], "Expected net to be mlp for features, but got 'cnn'"),
    "loss": (["--loss", "asymmetric"], "Expected loss to be one for class ids"),
    "objective": (["--objective", "f1"], "to be equal-recall or accuracy for classes"),
    "device": (["--device", "what"], "Expected device to be one torch can use"),
    "diverged": (["--lr", "1e30"], "training diverged: try a smaller lr"),
    "few": (["--limit", "4"], "Expected holdout to be at most"),
    "file": (["--out", os.devnull], "Expected out to be a folder"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_the_data(name, digits, tmp_path):
    options, words = UNFIT[name]
    result = run("train", digits, "--out", tmp_path / "run", *SMALL, *options)
    is_one_line(result, "train", words)


def test_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    shown = run("--help").stdout
    for command in ("audit", "train", "compare", "report"):
        assert command in shown
        page = run(command, "--help")
        assert page.exit_code == 0
        for words in ("For example: equipoise", "--json"):
            assert words in page.stdout
    assert "130" in shown


def test_the_documentation(tmp_path, monkeypatch):
    """Its Python runs; its commands are taken, with options that are there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    text = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text(encoding="utf-8")
    make, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(make, {})
    (command,) = re.findall(r"^\$ equipoise (train .*)$", text, re.MULTILINE)
    shown = run(*command.split())
    assert shown.exit_code == 0, shown.output
    printed = text.split(command + "\n")[1].split("```")[0]

    def without_figures(lines):
        return [re.sub(r"\d+\.\d+|\d\n", "", line).split() for line in lines.splitlines()[:-3]]

    assert without_figures(shown.stderr + shown.stdout)[:11] == without_figures(printed)[:11]
    assert shown.stdout.splitlines()[-1] == printed.splitlines()[-1]
    exec(use.replace("runs/digits", "runs/again"), {})
    again = json.loads((tmp_path / "runs" / "again" / "run.json").read_text())
    assert (
        again["results"] == json.loads((tmp_path / "runs/digits/run.json").read_text())["results"]
    )

    helps = "".join(run(name, "--help").stdout for name in ("audit", "train", "compare", "report"))
    for option in re.findall(r"`(--[a-z0-9-]+)", text):
        assert option in helps or option == "--help", option
