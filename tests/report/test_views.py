"""Pictures, TensorBoard and the page's text, without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from equipoise import Balancer
from equipoise.report import Report, make_report
from equipoise.report.drawing import spread_apart
from equipoise.report.pictures import pictures
from tests.report.runs import NAMES, evaluation_set, label_data, of_classes, of_labels

COMMON = {"recalls", "mean-and-spread"}


def nothing_observed() -> Report:
    balancer = Balancer([0, 0, 0, 1], "inverse-frequency")
    balancer.step()
    return make_report(balancer)


CASES = {
    "classes": (
        lambda: make_report(of_classes()),
        {*COMMON, "draws", "recalls-by-epoch", "log-weights"},
    ),
    "mined": (
        lambda: make_report(of_classes(mining="hardest-examples"), *evaluation_set(), names=NAMES),
        {*COMMON, "draws", "recalls-by-epoch", "log-weights", "mining"},
    ),
    "one epoch": (lambda: make_report(of_classes(epochs=1)), {*COMMON, "draws", "log-weights"}),
    "two classes": (
        lambda: make_report(of_classes(2)),
        {*COMMON, "draws", "recalls-by-epoch", "log-weights"},
    ),
    "many classes": (
        lambda: make_report(of_classes(130), baseline=np.linspace(0.9, 0.1, 130)),
        {*COMMON, "lowest", "draws", "recalls-by-epoch", "log-weights"},
    ),
    "labels": (
        lambda: make_report(of_labels(), *label_data(14, 500, 9)),
        {*COMMON, "draws", "recalls-by-epoch", "log-weights", "precision-recall", "reliability"},
    ),
    "nothing observed": (nothing_observed, {"draws", "log-weights"}),
}


@pytest.mark.parametrize("case", CASES)
def test_pictures(case: str, tmp_path):
    make, names = CASES[case]
    report = make()
    saved = report.save_pictures(tmp_path / "new" / "folder")
    assert {path.stem for path in saved} == names
    assert [path.name for path in saved] == [f"{p.name}.png" for p in pictures(report)]
    for path in saved:
        pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        assert len(pixels) > 100_000
        assert 0.001 < (pixels < 200).any(1).mean() < 0.8  # drawn upon, and not full
    for picture in pictures(report):
        assert len(picture.alt) > 20
        assert "nan" not in picture.alt + picture.note


def test_pictures_of_another_kind(tmp_path):
    saved = make_report(of_classes()).save_pictures(tmp_path, ".svg")
    assert all(path.read_text().startswith("<?xml") for path in saved)


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_whole(case: str, tmp_path):
    report = CASES[case][0]()
    text = report.save_html(tmp_path / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="|url\()#([^")]*)', text))
    assert referred <= set(ids)
    assert text.count("<svg") == len(pictures(report))
    assert not re.search(
        r"\bnan\b|\bNone\b|\binf\b", re.sub(r"<script>.*</script>", "", text, flags=re.S)
    )
    outside = re.findall(r"""(?:src|href)\s*=\s*["']?(?!#)([^"'\s>]+)|@import|url\((?!#)""", text)
    assert not [found for found in outside if found not in ("x",)]  # <img src=x is a class's name


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)


def test_names_are_escaped(tmp_path):
    report = make_report(of_classes(), *evaluation_set(), names=NAMES, title="<b>T & T</b>")
    text = report.save_html(tmp_path / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert not {"img", "b"} & set(tags.found)
    assert tags.found.count("script") == 1
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "<bdi>שלום עולם</bdi>" in text


def test_thousands_of_classes_stay_small(tmp_path):
    balancer = of_classes(2, epochs=2)
    rng = np.random.default_rng(0)
    saved = make_report(balancer).to_dict()
    c = 7900
    row = {"epoch": 0, "num_nan": 0, "num_invalid": 0, "mean_recall": 0.5, "sd_recall": 0.2}
    row |= {"lowest_recall": 0.0, "log_weight": rng.normal(size=c).round(6).tolist()}
    report = Report.from_dict(
        saved
        | {
            "names": [f"a label with a name, {i}" for i in range(c)],
            "counts": rng.integers(1, 5000, c).tolist(),
            "drawn": rng.integers(1, 5000, c).astype(float).tolist(),
            "num_examples": 100_000,
            "log_weight": row["log_weight"],
            "epochs": [row | {"recalls": rng.random(c).round(6).tolist()} for _ in range(30)],
            "before": {"recalls": rng.random(c).tolist(), "source": "baseline"},
            "after": {
                "recalls": rng.random(c).tolist(),
                "source": "last epoch",
                "support": rng.integers(1, 99, c).tolist(),
            },
        }
    )
    path = report.save_html(tmp_path / "report.html")
    assert path.stat().st_size < 2_000_000
    text = path.read_text(encoding="utf-8")
    assert all(f">a label with a name, {i}<" in text for i in range(c))


def test_labels_of_lines_are_moved_apart():
    rng = np.random.default_rng(0)
    for _ in range(20):
        places = rng.random(12)
        apart = spread_apart(places, 0.05)
        order = np.argsort(places)
        assert (np.diff(apart[order]) >= 0.05 - 1e-12).all()
        assert abs(apart.mean() - places.mean()) < 1e-9
    np.testing.assert_allclose(spread_apart([3.0, 1.0, 2.0], 0.5), [3, 1, 2])


def test_tensorboard(tmp_path):
    balancer = of_classes(mining="hardest-examples")
    report = make_report(balancer, *evaluation_set())
    with SummaryWriter(tmp_path) as writer:
        report.log_to(writer)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0}).Reload()
    means = events.Scalars("recall/mean")
    assert [event.step for event in means] == [row["epoch"] for row in balancer.history]
    expected = [row["mean_recall"] for row in balancer.history]
    np.testing.assert_allclose([event.value for event in means], expected, rtol=1e-5)
    one = [event.value for event in events.Scalars("log_weight/class 9")]
    np.testing.assert_allclose(one, [r["log_weight"][9] for r in balancer.history], atol=1e-5)
    kept = [event.value for event in events.Scalars("mining/share_kept")]
    np.testing.assert_allclose(kept, [r["mining"]["share_kept"] for r in balancer.history])
    (after,) = events.Scalars("report/after/mean_recall")
    assert after.value == pytest.approx(np.mean(report.after["recalls"]), rel=1e-5)
    assert after.step == 5
    assert set(events.Tags()["images"]) == {f"report/{p.name}" for p in pictures(report)}
    (image,) = events.Images("report/recalls")
    assert image.width > 400


def test_tensorboard_at_a_step_and_with_many_classes(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        make_report(of_classes(60, 2)).log_to(writer, step=1234)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    assert [event.step for event in events.Scalars("report/after/spread")] == [1234]
    assert not [tag for tag in tags if "class " in tag]
