"""What every test has: a headless matplotlib, and the markers `ffcv` and `browser`."""

from __future__ import annotations

import functools
import importlib
import os

import pytest

from tests.report.browser import NAMES, find_browser

os.environ.setdefault("MPLBACKEND", "Agg")


@functools.cache
def why_no_ffcv() -> str | None:
    """What importing FFCV raises, or None where it can be imported."""
    try:
        importlib.import_module("ffcv")
    except Exception as error:  # a broken build raises all kinds of things
        return f"FFCV cannot be imported: {type(error).__name__}: {error}"
    return None


def why_no_browser() -> str | None:
    """That no headless browser was found, or None where one was."""
    if find_browser() is not None:
        return None
    return f"No headless browser found: none of {', '.join(NAMES)}; EQUIPOISE_BROWSER names one"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marker names what is missing here, or fail it where that is required."""
    for marker, why in (("ffcv", why_no_ffcv), ("browser", why_no_browser)):
        if item.get_closest_marker(marker) is None or (reason := why()) is None:
            continue
        if os.environ.get("EQUIPOISE_REQUIRE_FFCV", "") not in ("", "0"):
            pytest.fail(f"{reason} (EQUIPOISE_REQUIRE_FFCV is set)", pytrace=False)
        pytest.skip(reason)
