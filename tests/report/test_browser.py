"""The page in a real browser: offline, without errors, legible and nothing beside the screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from equipoise.report import Report, make_report
from equipoise.report.pictures import pictures
from tests.report.browser import Browser, browser, find_browser
from tests.report.runs import NAMES, evaluation_set, label_data, of_classes, of_labels

pytestmark = pytest.mark.browser

DESKTOP, PHONE = 1200, 360

CASES = {
    "classes": lambda: make_report(
        of_classes(mining="hardest-examples"),
        *evaluation_set(),
        names=NAMES,
        baseline=np.linspace(0.95, 0.3, 10),
        seconds={"training": 800, "hold-out": 20},
        title="<b>Title & all</b>",
    ),
    "labels": lambda: make_report(of_labels(), *label_data(14, 500, 9)),
    "many": lambda: make_report(of_classes(200, 12), baseline=np.linspace(0.9, 0.1, 200)),
    "one epoch": lambda: make_report(of_classes(3, 1)),
}


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser(str(find_browser())) as running:
        yield running


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, tuple[Report, Path]]:
    folder = tmp_path_factory.mktemp("pages")
    reports = {name: make() for name, make in CASES.items()}
    return {
        name: (report, report.save_html(folder / f"{name}.html"))
        for name, report in reports.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_it_opens_offline_without_errors(case: str, window: Browser, saved):
    report, path = saved[case]
    window.open(path)
    assert window.requests() == [path.as_uri()]
    assert window.complaints() == []
    assert window.run("document.title") == report.title
    assert window.run("document.querySelector('h1').textContent") == report.title
    headings = window.run("[...document.querySelectorAll('.story h2')].map(e => e.textContent)")
    assert headings == [
        "What was unbalanced",
        "What was done",
        "What it changed",
        "What it cost",
    ]


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_beside_the_screen(case: str, width: int, window: Browser, saved):
    _, path = saved[case]
    window.open(path, width=width)
    assert window.run("innerWidth") == width
    assert window.run("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
    assert window.run(wide) == []


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("case", CASES)
def test_pictures_are_drawn_and_their_words_do_not_overlap(
    case: str, width: int, window: Browser, saved
):
    report, path = saved[case]
    window.open(path, width=width)
    drawn = window.run("""[...document.querySelectorAll('figure svg')].map(svg => {
        const box = svg.getBoundingClientRect();
        const words = [...svg.querySelectorAll('text')].map(e => {
            const b = e.getBoundingClientRect();
            return [e.textContent, b.left, b.top, b.right, b.bottom];
        });
        return {width: box.width, height: box.height, left: box.left, right: box.right,
            label: svg.getAttribute('aria-label'), role: svg.getAttribute('role'), words,
            shapes: svg.querySelectorAll('path, use').length};
    })""")
    expected = pictures(report)
    assert len(drawn) == len(expected)
    for found, picture in zip(drawn, expected, strict=True):
        assert found["width"] > 300
        assert found["height"] > 100
        assert found["shapes"] > 5
        assert found["role"] == "img"
        assert picture.alt in found["label"]
        words = [word for word in found["words"] if word[0].strip()]
        assert len(words) > 3
        for word in words:
            assert word[1] > found["left"] - 3, word
            assert word[3] < found["right"] + 3, word
        assert overlapping(words) == []


def overlapping(words: list) -> list[tuple[str, str]]:
    """Pairs of which more than a seam overlaps; boxes are as high as the font's tallest letters."""
    pairs = []
    for i, (one, left, top, right, bottom) in enumerate(words):
        for other, left2, top2, right2, bottom2 in words[i + 1 :]:
            across = min(right, right2) - max(left, left2)
            down = min(bottom, bottom2) - max(top, top2)
            if across > 1 and down > 0.45 * min(bottom - top, bottom2 - top2):
                pairs.append((one, other))
    return pairs


def test_names_are_shown_as_they_are(window: Browser, saved):
    report, path = saved["classes"]
    window.open(path)
    shown = window.run("[...document.querySelectorAll('tbody th')].map(e => e.textContent)")
    assert set(NAMES) <= set(shown)
    assert window.run("document.querySelectorAll('img, b').length") == 0
    words = window.run("[...document.querySelectorAll('svg text')].map(e => e.textContent)")
    assert {NAMES[0][:15], "cats & dogs", "שלום עולם", "🚀 rocket", "$x^2$ {y} \\alpha"} <= {
        *words,
        *(word[:15] for word in words),
    }
    told = window.run("document.querySelector('main').innerText")
    worst = int(np.argmin(report.before["recalls"]))
    assert NAMES[worst][:40] in told


LUMINANCE = """
const channel = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const ground = e => {
    for (; e; e = e.parentElement) {
        const c = rgb(getComputedStyle(e).backgroundColor);
        if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
};
"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("case", ["classes", "labels", "many"])
def test_text_stands_out_in_light_and_in_dark(case: str, dark: bool, window: Browser, saved):
    window.open(saved[case][1], dark=dark)
    pale = window.run(f"""(() => {{{LUMINANCE}
        const seen = [];
        for (const e of document.querySelectorAll(
                'h1, h2, h3, p, dt, dd, li, th, td, summary, caption, figcaption, text, .was')) {{
            if (!e.textContent.trim() || !e.getBoundingClientRect().width) continue;
            const style = getComputedStyle(e);
            const a = light(rgb(e.tagName === 'text' ? style.fill : style.color));
            const b = light(ground(e));
            const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            if (ratio < 4.5) seen.push([e.tagName, e.textContent.slice(0, 30), ratio]);
        }}
        return seen;
    }})()""")
    assert pale == []
    paper = window.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(19, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert window.complaints() == []


def test_headings_sort_and_a_field_filters(window: Browser, saved):
    window.open(saved["many"][1])
    window.run("document.querySelector('.all').open = true")
    head = "document.querySelectorAll('.all thead th')"
    column = window.run(f"[...{head}].findIndex(e => e.textContent === 'now')")
    values = (
        f"[...document.querySelectorAll('.all tbody tr')].map(r => r.cells[{column}].textContent)"
    )
    for order, sign in (("ascending", 1), ("descending", -1)):
        window.run(f"{head}[{column}].querySelector('button').click()")
        assert window.run(f"{head}[{column}].getAttribute('aria-sort')") == order
        seen = [float(value) for value in window.run(values)]
        assert len(seen) == 200
        assert (np.diff(seen) * sign >= 0).all()
    window.run("""(() => {
        const field = document.querySelector('.all input');
        field.value = 'CLASS 19';
        field.dispatchEvent(new Event('input'));
    })()""")
    left = window.run("[...document.querySelectorAll('.all tbody tr:not([hidden]) th')]"
                      ".map(e => e.textContent)")  # fmt: skip
    assert set(left) == {"class 19", *(f"class {i}" for i in range(190, 200))}
    assert window.complaints() == []


@pytest.mark.parametrize("case", CASES)
def test_it_can_be_read_aloud(case: str, window: Browser, saved):
    window.open(saved[case][1])
    assert window.run("document.documentElement.lang") == "en"
    assert window.run("document.querySelectorAll('h1').length") == 1
    levels = window.run("[...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
    assert max(np.diff(levels)) <= 1
    assert window.run("[...document.querySelectorAll('table')].every(t => t.caption.textContent)")
    assert window.run("[...document.querySelectorAll('th')].every(e => e.scope)")
    rows = "[...document.querySelectorAll('tbody tr')].map(r => r.cells.length)"
    heads = "[...document.querySelectorAll('thead tr')].map(r => r.cells.length)"
    assert set(window.run(rows)) <= set(window.run(heads))


@pytest.mark.parametrize("case", ["classes", "labels"])
def test_it_prints(case: str, window: Browser, saved):
    window.open(saved[case][1], dark=True)
    printed = window.pdf()
    assert printed.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) <= 4
