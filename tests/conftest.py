"""What every test has: a headless matplotlib, and the `ffcv` marker."""

from __future__ import annotations

import functools
import importlib
import os

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@functools.cache
def why_no_ffcv() -> str | None:
    """What importing FFCV raises, or None where it can be imported."""
    try:
        importlib.import_module("ffcv")
    except Exception as error:  # a broken build raises all kinds of things
        return f"FFCV cannot be imported: {type(error).__name__}: {error}"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `ffcv` where FFCV is missing, or fail it where FFCV is required."""
    if item.get_closest_marker("ffcv") is None:
        return
    reason = why_no_ffcv()
    if reason is None:
        return
    if os.environ.get("EQUIPOISE_REQUIRE_FFCV", "") not in ("", "0"):
        pytest.fail(f"{reason} (EQUIPOISE_REQUIRE_FFCV is set)", pytrace=False)
    pytest.skip(reason)
