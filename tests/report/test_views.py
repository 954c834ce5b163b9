"""Pictures, page, terminal and TensorBoard."""

from __future__ import annotations

import base64
import re
import sys
from html import escape
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from equipoise import Targets
from equipoise.figures import caption, save, style
from equipoise.report import Report, make_report
from equipoise.report.front import front_figure
from equipoise.report.pictures import BEST, WORST, Picture, pictures
from tests.report.runs import (
    NAMES,
    MadeBalancer,
    evaluation_set,
    front,
    label_data,
    of_classes,
    of_labels,
)

COMMON = ["recalls", "front", "counts", "recalls-by-epoch", "log-weights"]


def nothing_observed() -> Report:
    held = Targets.from_class_counts([300, 1])
    return make_report(MadeBalancer(held, np.zeros(2), history=[{"epoch": 0}]))


CASES = {
    "two classes": (lambda: make_report(of_classes(2)), COMMON),
    "names": (
        lambda: make_report(
            of_classes(mining=True), *evaluation_set(), names=NAMES, title="<b>T & T</b>"
        ),
        COMMON,
    ),
    "101": (lambda: make_report(of_classes(101), *evaluation_set(101, 20)), COMMON),
    "one epoch": (
        lambda: make_report(of_classes(epochs=1, decided=False)),
        ["recalls", "counts", "log-weights"],
    ),
    "labels": (
        lambda: make_report(of_labels(), *label_data(14, 500, 9)),
        ["recalls", "counts", "recalls-by-epoch", "reliability"],
    ),
    "nothing observed": (nothing_observed, ["counts"]),
}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> tuple[Report, list[Picture], list[str]]:
    make, names = CASES[request.param]
    report = make()
    return report, pictures(report), names


def test_pictures(case, tmp_path):
    _, drawn, names = case
    assert [picture.name for picture in drawn] == names
    for picture in drawn:
        assert "nan" not in picture.title + picture.note
        with style():
            FigureCanvasAgg(picture.figure).draw()
            box, size = picture.figure.get_tightbbox(), picture.figure.get_size_inches()
        assert min(box.min) > -0.02, picture.name  # nothing is cut off, in inches
        assert (box.max < size + 0.02).all(), picture.name


def test_pictures_are_saved(tmp_path):
    report = make_report(of_classes(2))
    for path in report.save_pictures(tmp_path / "new" / "folder"):
        pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        assert len(pixels) > 100_000
        assert 0.001 < (pixels < 200).any(1).mean() < 0.8  # drawn upon, and not full
    assert [path.suffix for path in report.save_pictures(tmp_path, ".svg")] == [".svg"] * 5


def test_every_class_is_named_or_the_extremes_are(case):
    report, drawn, _ = case
    if not report.outcomes:
        return
    axes = drawn[0].figure.axes[-1]
    order = np.lexsort([report.outcomes[i]["recalls"] for i in (0, -1)])
    if len(order) > 60:
        order = np.concatenate([order[:WORST], order[-BEST:]])
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [caption(report.names[c]) for c in order]
    lengths = [patch.get_width() for patch in axes.containers[0]]
    np.testing.assert_allclose(lengths, np.array(report.outcomes[-1]["recalls"])[order])


def test_the_chance_band_is_two_standard_errors_about_the_mean():
    report = make_report(of_classes(), *evaluation_set(size=50))
    mean = report.outcomes[-1]["mean"]
    band = pictures(report)[0].figure.axes[0].containers[1][0]
    assert band.get_x() + band.get_width() / 2 == pytest.approx(mean)
    assert band.get_width() / 2 == pytest.approx(1.96 * np.sqrt(mean * (1 - mean) / 50))


def test_logarithmic_ticks_are_plain():
    figure = next(p.figure for p in pictures(make_report(of_classes(101))) if p.name == "counts")
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"100", "1,000"} <= set(labels)
    assert not any("$" in label or "^" in label for label in labels)


def test_the_front_shows_intervals_choice_and_cap(tmp_path):
    rows = front(np.zeros(3))
    figure = front_figure(rows, chosen=3, max_price=0.01)
    axes = figure.axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    expected = [[row["lowest"], row["mean"]] for row in rows]
    np.testing.assert_allclose(lines["the front, over α"], expected)
    np.testing.assert_allclose(lines["chosen"], [expected[3]])
    cap = lines["price cap: 0.01 of mean recall"]
    np.testing.assert_allclose(cap[:, 1], rows[0]["mean"] - 0.01)
    assert {"α = 0", "α = 4", "equal"} <= {text.get_text() for text in axes.texts}
    assert save(figure, tmp_path / "front.svg").read_text().startswith("<?xml")


def test_the_page_is_whole_and_loads_nothing(case, tmp_path):
    """What a reader sees of it is looked at in a browser, in test_browser.py."""
    report, drawn, _ = case
    text = report.save_html(tmp_path / "report.html").read_text(encoding="utf-8")
    for source, picture in zip(re.findall(r"(?:src|href)=\"(.*?)\"", text), drawn, strict=True):
        kind, _, data = source.partition("base64,")
        assert kind == "data:image/svg+xml;"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
        assert f'alt="{escape(picture.title)}"' in text
    assert text.count("<table") == text.count("<caption") > 0
    assert not re.search(r">\s*(nan|None|inf)\s*<", text)
    assert all(row["name"] in text for row in report.outcomes)


def test_names_are_escaped(tmp_path):
    report = CASES["names"][0]()
    text = report.save_html(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>T" not in text
    assert not re.search(r"<img(?! src=\"data:)", text)
    assert "&lt;/script&gt;&lt;script&gt;throw 1&lt;/script&gt;" in text
    assert "<bdi>שלום עולם</bdi>" in text
    svg = base64.b64decode(re.findall(r"base64,([^\"]+)", text)[0]).decode()
    assert "<script" not in svg
    assert "$x^2$" in svg


def test_thousands_of_classes_stay_small(tmp_path):
    path = make_report(of_classes(7900, 2)).save_html(tmp_path / "report.html")
    assert path.stat().st_size < 3_000_000
    assert path.read_text(encoding="utf-8").count("<bdi>class ") >= 7900


@pytest.mark.parametrize("width", [70, 80, 200])
def test_the_terminal_shows_it(width: int, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    make_report(of_classes(), *evaluation_set(), names=NAMES).show()
    out = capsys.readouterr().out
    for part in ("What was unbalanced", "[bold]not markup[/]", "<img src=x", "By chance"):
        assert part in out
    assert max(map(len, out.splitlines())) <= width
    rows = [line for line in out.splitlines() if line.startswith("│")]
    assert len(rows) == 3 + 10
    assert all(re.search(r"\d\.\d{3}", row) for row in rows)


def test_many_classes_in_the_terminal(capsys):
    make_report(of_classes(40, 3), *evaluation_set(40)).show(most=8)
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith("│")]) == 3 + 8
    assert "32 more classes are not shown" in out


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("rich.text", lambda report, path: report.show()),
        ("matplotlib", lambda report, path: report.save_pictures(path)),
        ("jinja2", lambda report, path: report.save_html(path / "report.html")),
    ],
)
def test_a_missing_package_is_named_with_its_extra(package: str, call, monkeypatch, tmp_path):
    report = make_report(of_classes())
    monkeypatch.setitem(sys.modules, package, None)
    name = package.split(".")[0]
    with pytest.raises(ImportError, match=rf"the package {name} .*pip install 'equipoise\[report"):
        call(report, tmp_path)


def test_tensorboard(tmp_path):
    balancer = of_classes(mining=True)
    report = make_report(balancer, *evaluation_set())
    with SummaryWriter(tmp_path) as writer:
        report.log_to(writer)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0}).Reload()
    for tag, expected in (
        ("recall/mean", [row["mean_recall"] for row in balancer.history]),
        ("recall/price", [row["price"] for row in balancer.history]),
        ("log_weight/class 9", [row["log_weight"][9] for row in balancer.history]),
        ("mining/share_kept", [0.25] * 6),
    ):
        found = events.Scalars(tag)
        assert [event.step for event in found] == list(range(6))
        np.testing.assert_allclose([e.value for e in found], expected, rtol=1e-5, atol=1e-5)
    (decided,) = events.Scalars("report/decided/mean")
    assert (decided.step, decided.value) == (5, pytest.approx(report.outcomes[-1]["mean"]))
    assert set(events.Tags()["images"]) == {f"report/{p.name}" for p in pictures(report)}
    assert events.Images("report/recalls")[0].width > 400

    with SummaryWriter(tmp_path := tmp_path / "many") as writer:
        make_report(of_classes(60, 2)).log_to(writer, step=1234)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("report/last epoch/sd")] == [1234]
    assert not [tag for tag in events.Tags()["scalars"] if "class " in tag]
