"""The `browser` marker: skipped without a browser, or failed where CI requires one."""

from __future__ import annotations

import os

import pytest

from tests.report.browser import NAMES, find_browser


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") is None or find_browser() is not None:
        return
    reason = f"No headless browser found: none of {', '.join(NAMES)}; EQUIPOISE_BROWSER names one"
    if os.environ.get("EQUIPOISE_REQUIRE_FFCV", "") not in ("", "0"):
        pytest.fail(f"{reason} (EQUIPOISE_REQUIRE_FFCV is set)", pytrace=False)
    pytest.skip(reason)
