"""Report: what was unbalanced, what was done, what it changed and what it cost."""

from __future__ import annotations

from equipoise.report.gathering import make_report
from equipoise.report.report import Report

__all__ = ["Report", "make_report"]
