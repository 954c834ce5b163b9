"""Audit: how imbalanced labels are, in numbers, pictures and plain words."""

from __future__ import annotations

from equipoise.audit.measures import Audit, audit
from equipoise.audit.reading import read_labels

__all__ = ["Audit", "audit", "read_labels"]
