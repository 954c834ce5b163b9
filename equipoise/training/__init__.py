"""Training: from a file to a tested network, for the command line. One function, `train_run`."""

from __future__ import annotations

from equipoise.training.data import Data, read_data
from equipoise.training.run import Progress, train_run
from equipoise.training.saving import load_model
from equipoise.training.settings import METHODS, Settings, settings_of_method

__all__ = [
    "METHODS",
    "Data",
    "Progress",
    "Settings",
    "load_model",
    "read_data",
    "settings_of_method",
    "train_run",
]
