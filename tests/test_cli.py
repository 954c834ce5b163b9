"""`equipoise audit` and `report`: files, what is printed, exit codes, and files that are wrong.

Tables and folders are read in tests/test_reading.py.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_matrix, save_npz
from typer.testing import CliRunner

import equipoise
from equipoise.cli import app

IDS = np.array([0] * 6 + [1] * 3 + [2])
HOT = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 1, 0]], np.uint8)
ARFF = "@relation 'r: -C 2'\n@attribute a {0,1}\n@attribute b {0,1}\n@attribute x numeric\n@data\n"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def json_of(command, *arguments):
    """The JSON printed."""
    result = run(command, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def audited(*arguments):
    return json_of("audit", *arguments)


def counts_of(found):
    return {row["name"]: row["count"] for row in found["classes"]}


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


def csr(prefix, matrix):
    matrix = csr_matrix(matrix)
    parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    parts["shape"] = np.array(matrix.shape)
    return {f"{prefix}_{name}": part for name, part in parts.items()}


NAMES = np.array(["cat", "dog", "owl"])
BY_ID = {"0": 6, "1": 3, "2": 1}
BY_LABEL = {"0": 4, "1": 2, "2": 1}
GOOD = {
    "ids.npy": (IDS, [], BY_ID),
    "column.npy": (IDS[:, None], [], BY_ID),
    "floats.npy": (IDS.astype(np.float32), [], BY_ID),
    "words.npy": (NAMES[IDS], [], {"cat": 6, "dog": 3, "owl": 1}),
    "bytes.npy": (NAMES[IDS].astype("S"), [], {"cat": 6, "dog": 3, "owl": 1}),
    "far.npy": (IDS * 10**9 + 7, [], {"7": 6, "1000000007": 3, "2000000007": 1}),
    "hot.npy": (HOT, [], BY_LABEL),
    "bool.npy": (HOT.astype(bool), [], BY_LABEL),
    "y.npz": ({"x": np.zeros((10, 2)), "y": IDS}, [], BY_ID),
    "train.npz": ({"y_test": IDS[:1], "y_train": IDS, "x_train": HOT}, [], BY_ID),
    "medmnist.npz": ({"test_labels": IDS[:1, None], "train_labels": IDS[:, None]}, [], BY_ID),
    "only.npz": ({"arr_0": IDS}, [], BY_ID),
    "field.npz": ({"y": HOT, "other": IDS}, ["--field", "other"], BY_ID),
    "named.npz": ({"Y": HOT, "label_names": NAMES}, [], {"cat": 4, "dog": 2, "owl": 1}),
    "more.npz": ({"y": IDS[:9], "class_names": NAMES}, [], {"cat": 6, "dog": 3, "owl": 0}),
    "other_names.npz": ({"y": IDS, "class_names": NAMES[:2]}, [], BY_ID),
    "csr.npz": ({**csr("Y", HOT), **csr("X", HOT)}, [], BY_LABEL),
    "csr_field.npz": ({**csr("Y", HOT[:1]), **csr("tags", HOT)}, ["--field", "tags"], BY_LABEL),
    "sets.csv": ("file,tags\na,x;y\nb,y\n", ["--separator", ";"], {"x": 1, "y": 2}),
    "c.arff": (ARFF + "1,0,.5\n1,1,.5\n", [], {"a": 2, "b": 1}),
    "first.arff": (ARFF + "1,0,.5\n1,1,.5\n", ["--labels", "1"], {"a": 2}),
    "last.arff": (ARFF + "1,0,0\n1,1,1\n", ["--labels", "-2"], {"b": 1, "x": 1}),
    "chosen.arff": (ARFF + "1,0,.5\n1,1,.5\n", ["--labels", "b, a"], {"b": 1, "a": 2}),
}


@pytest.mark.filterwarnings("ignore:Of .* classes these have no example")
@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_file(name, tmp_path):
    content, options, counts = GOOD[name]
    assert counts_of(audited(write(tmp_path / name, content), *options)) == counts


def test_matrix_as_scipy_saves_it(tmp_path):
    save_npz(tmp_path / "scipy.npz", matrix := csr_matrix(HOT))
    assert counts_of(audited(tmp_path / "scipy.npz")) == BY_LABEL
    matrix.indices[:] = 9
    save_npz(tmp_path / "scipy.npz", matrix)
    is_one_line(run("audit", tmp_path / "scipy.npz"), "to hold a CSR matrix")


def test_mulans_labels(tmp_path):
    write(tmp_path / "m.arff", ARFF.replace(": -C 2", "") + "1,0,.5\n0,1,.5\n0,1,2\n")
    write(tmp_path / "other.xml", '<labels><label name="b"></label></labels>')
    assert counts_of(audited(tmp_path / "m.arff", "--labels", tmp_path / "other.xml")) == {"b": 2}


def saved_by(save, *content, **arrays):
    """The bytes that go into the file."""
    save(buffer := io.BytesIO(), *content, **arrays)
    return buffer.getvalue()


PNG = saved_by(Image.new("L", (1, 1)).save, "png")
WHOLE = saved_by(np.savez, y=np.arange(5000) % 7)
OBJECTS = np.array([[1], [1, 2]], object)
BAD = {
    "empty.npz": (b"", "is empty"),
    "truncated.npz": (WHOLE[:-40], "damaged or none"),
    "damaged.npz": (WHOLE[:100] + bytes(64) + WHOLE[164:], "damaged or none"),
    "is_npy.npz": (saved_by(np.save, IDS), "damaged or none"),
    "png.npz": (PNG, "damaged or none"),
    "png.npy": (PNG, "damaged or none"),
    "pickled.npz": ({"y": OBJECTS}, "pickled Python objects"),
    "pickled.npy": (pickle.dumps([0, 1]), "damaged or none"),
    "no_labels.npz": ({"x": IDS, "z": IDS}, "holds x, z. Say which with --field"),
    "no_arrays.npz": (b"PK\x05\x06" + bytes(18), "but it holds nothing"),
    "negative.npy": (np.array([0, -1]), "class ids from 0 up, but got -1"),
    "zero.npy": (np.array(3), "but got shape ()"),
    "csr.npz": ({**csr("Y", HOT), "Y_indices": np.full(7, 9, np.int32)}, "to hold a CSR matrix"),
    "shape.npz": ({**csr("Y", HOT), "Y_shape": np.array([5])}, "to hold a CSR matrix"),
    "png.arff": (PNG, "to be ARFF"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(name, tmp_path):
    content, words = BAD[name]
    is_one_line(run("audit", write(tmp_path / name, content)), words)


def is_one_line(result, words, command="audit"):
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert re.fullmatch(rf"equipoise {command}: [^\n]+\n", result.stderr), result.stderr
    assert words in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_missing_files_and_fields(tmp_path):
    path = write(tmp_path / "y.npz", {"y": IDS})
    is_one_line(run("audit", tmp_path / "none.npz"), "there is none at")
    is_one_line(run("audit", tmp_path), "a folder of images for each class")
    (tmp_path / "folder.npz").mkdir()
    is_one_line(run("audit", tmp_path / "folder.npz"), "but it holds nothing")
    is_one_line(run("audit", path, "--field", "z"), "to hold 'z', but it holds y")
    nowhere = tmp_path / "no" / "p.png"
    is_one_line(run("audit", path, "--plot", nowhere), "a folder that does not exist")
    is_one_line(run("audit", path, "--plot", tmp_path / "p.docx"), "docx")


def test_wrong_usage(tmp_path):
    path = write(tmp_path / "y.npy", IDS)
    wrong = [["audit"], ["audit", path, "--what"], ["train"], ["audit", path, "--most", "0"]]
    wrong += [["audit", path, "--field", "y"], ["report"], ["audit", path, "--labels", "3"]]
    for arguments in wrong:
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert result.stdout == ""
        assert "Usage" in result.stderr


def test_what_a_person_sees(tmp_path):
    path = write(tmp_path / "y.npz", {"y": IDS, "class_names": np.array(["[red]cat[/]", "d", "o"])})
    result = run("audit", path, "--plot", tmp_path / "p.png")
    assert result.exit_code == 0
    for words in (
        "10 examples, 3 classes",
        "[red]cat[/]",
        "60.00%",
        "imbalance",
        "6.0 times",
        "2.00",
    ):
        assert words in result.stdout
    assert "SCUMBLE" not in result.stdout  # says nothing about class ids
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "p.png" in result.stderr

    hot = run("audit", write(tmp_path / "hot.npy", HOT))
    for words in ("SCUMBLE", "labels an example, 0 to 2 of 3", "label sets"):
        assert words in hot.stdout


def test_most(tmp_path):
    path = write(tmp_path / "y.npy", np.repeat(np.arange(9), np.arange(9, 0, -1)))
    for most, classes, gap in ((4, "0178", "5 between"), (1, "0", "8 rarer"), (9, "012345678", "")):
        shown = run("audit", path, "--most", most).stdout
        assert "".join(re.findall(r"^│ (\d) ", shown, re.MULTILINE)) == classes
        assert gap in shown


def test_json_is_all_of_it_and_names_cannot_steer_the_terminal(tmp_path):
    path = write(tmp_path / "y.npz", {"Y": HOT, "label_names": np.array(["é", "a\x1b[2J", "b\n"])})
    assert audited(path, "--most", "1") == equipoise.audit(HOT, ["é", "a�[2J", "b�"]).to_dict()


def test_help_and_version():
    shown = run("--help")
    assert (shown.exit_code, "audit" in shown.stdout) == (0, True)
    shown = run("audit", "--help")
    assert shown.exit_code == 0
    for option in ("field", "separator", "labels", "most", "json", "plot"):
        assert f"--{option}" in shown.stdout
    assert run("--version").stdout == f"equipoise {equipoise.__version__}\n"


def process(*arguments, **settings):
    command = [sys.executable, "-m", "equipoise", "audit", *arguments]
    settings = {"stdout": subprocess.PIPE} | settings
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, **settings)


def test_a_real_process(tmp_path):
    path = write(tmp_path / "y.npz", {"y": IDS})
    done = process(path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["imbalance_ratio"] == 6
    done = process(tmp_path / "none.npz")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"equipoise audit: .+ there is none at .+\n", done.stderr)
    done = process(path, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "imbalance ratio" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(tmp_path):
    with open("/dev/full", "w") as full:
        done = process(write(tmp_path / "y.npz", {"y": IDS}), stdout=full)
    assert done.returncode == 1
    assert re.fullmatch(r"equipoise audit: .*No space left on device\n", done.stderr), done.stderr


def test_the_command_is_installed():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="equipoise")
    assert [script.value for script in scripts] == ["equipoise.__main__:main"], "run `make setup`"


@pytest.fixture
def saved(tmp_path):
    """A report's file, in a folder of its own."""
    balancer = equipoise.Balancer(IDS)
    balancer.observe(torch.eye(3)[IDS], torch.from_numpy(IDS))
    balancer.step()
    path = tmp_path / "run" / "report.json"
    path.parent.mkdir()
    path.write_text(json.dumps(balancer.report(names=["[red]cat", "dog", "owl"]).to_dict()))
    return path


def test_a_report_is_shown_again(saved, tmp_path):
    page = tmp_path / "page.html"
    shown = run("report", saved, "--html", page)
    assert shown.exit_code == 0, shown.output
    assert "[red]cat" in shown.stdout
    assert "[red]cat" in page.read_text(encoding="utf-8")
    assert "page.html" in shown.stderr
    assert json.loads(run("report", saved.parent, "--json").stdout) == json.loads(saved.read_text())
    assert saved.with_suffix(".html").stat().st_size > 10_000


def test_what_is_no_report(saved, tmp_path):
    is_one_line(run("report", tmp_path / "none"), "to be a report's JSON file", "report")
    is_one_line(run("report", tmp_path), "to be a report's JSON file", "report")
    none = tmp_path / "none" / "page.html"
    is_one_line(run("report", saved, "--html", none), "does not exist", "report")
    saved.write_text("{")
    is_one_line(run("report", saved), "to be JSON", "report")


def test_without_what_it_needs(tmp_path, monkeypatch):
    from equipoise import __main__

    path = write(tmp_path / "y.npy", IDS)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    is_one_line(run("audit", path, "--plot", tmp_path / "p.png"), "equipoise[report]")
    monkeypatch.setitem(sys.modules, "pandas", None)
    is_one_line(run("audit", write(tmp_path / "t.csv", "label\na\n")), "equipoise[cli]")
    monkeypatch.setitem(sys.modules, "arff", None)
    arff = write(tmp_path / "c.arff", ARFF + "1,0,.5\n")
    is_one_line(run("audit", arff), "equipoise[multilabel]")
    for module in [name for name in sys.modules if name.startswith("equipoise.ffcv")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(equipoise, "ffcv", raising=False)
    monkeypatch.setitem(sys.modules, "ffcv", None)
    is_one_line(run("audit", write(tmp_path / "t.beton", b"1234")), "equipoise[ffcv]")
    for module in [name for name in sys.modules if name.startswith("equipoise.cli")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"needs typer and rich: pip install 'equipoise\[cli\]'"):
        __main__.main()


@pytest.mark.ffcv
def test_beton(tmp_path):
    from equipoise.ffcv import write as write_beton

    path = tmp_path / "train.beton"
    write_beton((IDS, np.arange(10)), path, {"label": None, "id": None}, num_workers=1)
    assert counts_of(audited(path)) == BY_ID
    assert len(counts_of(audited(path, "--field", "id"))) == 10
    is_one_line(run("audit", path, "--field", "z"), "['label', 'id']")
    content = path.read_bytes()
    is_one_line(run("audit", write(tmp_path / "cut.beton", content[:-30])), "FFCV file")
    is_one_line(run("audit", write(tmp_path / "png.beton", PNG)), "FFCV file")


PROGRAM = """
import {first}
import equipoise.audit
from equipoise.audit import Audit
from equipoise import audit
assert audit([0, 1, 1]).counts.tolist() == equipoise.audit([0, 1, 1]).counts.tolist() == [1, 2]
assert isinstance(audit([0, 1]), Audit) and Audit is equipoise.Audit
"""


@pytest.mark.parametrize("first", ["equipoise", "equipoise.audit.views"])
def test_audit_is_the_function_whatever_comes_first(first):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(first=first)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
