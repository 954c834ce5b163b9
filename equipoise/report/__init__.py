"""Report: what was unbalanced, what was done, what it changed and what it cost."""

from __future__ import annotations

from equipoise.report.make import make_report
from equipoise.report.report import Report, load

__all__ = ["Report", "load", "make_report"]
