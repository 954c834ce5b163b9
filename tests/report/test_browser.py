"""The page in a real browser: offline, without errors, legible and nothing beside the screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from equipoise.report import Report
from equipoise.report.pictures import pictures
from tests.report.browser import Browser, browser, find_browser
from tests.report.runs import NAMES
from tests.report.test_views import CASES

pytestmark = pytest.mark.browser

DESKTOP, PHONE = 1200, 360


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser(str(find_browser())) as running:
        yield running


@pytest.fixture(scope="module", params=["names", "labels", "101", "one epoch"])
def saved(request, tmp_path_factory) -> tuple[Report, Path]:
    report = CASES[request.param][0]()
    return report, report.save_html(tmp_path_factory.mktemp("pages") / "report.html")


def test_it_opens_offline_without_errors(window: Browser, saved):
    report, path = saved
    window.open(path)
    assert [url for url in window.requests() if not url.startswith("data:")] == [path.as_uri()]
    assert window.complaints() == []
    assert window.run("document.title") == report.title
    assert window.run("document.querySelector('h1').textContent") == report.title
    assert window.run("document.querySelectorAll('.story h2').length") == 4


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_pictures_are_drawn_and_nothing_is_beside_the_screen(width: int, window: Browser, saved):
    report, path = saved
    window.open(path, width=width)
    assert window.run("innerWidth") == width
    assert window.run("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
    assert window.run(wide) == []
    drawn = window.run("""Promise.all([...document.images].map(async e => {
        await e.decode();
        return [e.alt, e.naturalWidth, e.getBoundingClientRect().width];
    }))""")
    assert [alt for alt, _, _ in drawn] == [picture.title for picture in pictures(report)]
    assert all(natural > 300 and shown > 300 for _, natural, shown in drawn)


def test_names_are_shown_as_they_are(window: Browser, tmp_path):
    window.open(CASES["names"][0]().save_html(tmp_path / "report.html"))
    shown = window.run("[...document.querySelectorAll('tbody th')].map(e => e.textContent)")
    assert set(NAMES) <= set(shown)
    assert window.run("document.scripts.length") == 0
    own = "document.querySelectorAll('figure img, li b').length"
    assert window.run("document.querySelectorAll('img, b').length") == window.run(own)
    assert NAMES[0] in window.run("document.querySelector('.story').innerText")


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
def test_text_stands_out_in_light_and_in_dark(dark: bool, window: Browser, saved):
    window.open(saved[1], dark=dark)
    pale = window.run(f"""(() => {{{LUMINANCE}
        const seen = [];
        for (const e of document.querySelectorAll(
                'h1, h2, p, li, th, td, summary, caption, figcaption')) {{
            if (!e.textContent.trim() || !e.getBoundingClientRect().width) continue;
            const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
            const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
            if (ratio < 4.5) seen.push([e.tagName, e.textContent.slice(0, 30), ratio]);
        }}
        return seen;
    }})()""")
    assert pale == []
    paper = window.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(19, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_it_can_be_read_aloud_and_printed(window: Browser, saved):
    window.open(saved[1])
    assert window.run("document.documentElement.lang") == "en"
    levels = window.run("[...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
    assert (levels.count(1), max(np.diff(levels))) == (1, 1)
    assert window.run("[...document.querySelectorAll('table')].every(t => t.caption.textContent)")
    assert window.run("[...document.querySelectorAll('th')].every(e => e.scope)")
    rows = "[...document.querySelectorAll('tbody tr')].map(r => r.cells.length)"
    heads = "[...document.querySelectorAll('thead tr')].map(r => r.cells.length)"
    assert set(window.run(rows)) <= set(window.run(heads))
    printed = window.pdf()
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", printed)) <= 8
