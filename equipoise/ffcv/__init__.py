"""FFCV: orders, loading, reading and writing. The only place that imports `ffcv`.

`order` and `attach` make an FFCV `Loader` read what a sampler draws; `BalancedLoader` iterates it
and ends cleanly. `write` makes a `.beton`, `check` tells whether one is whole, `targets` reads its
labels without decoding. `MultiHotField` stores multi-hot labels, one bit each.
"""

from __future__ import annotations

try:
    import ffcv as _ffcv  # noqa: F401
except ImportError as error:
    raise ImportError(
        "equipoise.ffcv needs FFCV: pip install 'equipoise[ffcv]' (it is built from source; see "
        f"docs/ffcv.md). Importing it said: {error}"
    ) from error

from equipoise.ffcv.checking import check
from equipoise.ffcv.loading import BalancedLoader, attach
from equipoise.ffcv.multihot import MultiHotDecoder, MultiHotField
from equipoise.ffcv.orders import SamplerOrder, order
from equipoise.ffcv.reading import targets
from equipoise.ffcv.writing import write

__all__ = [
    "BalancedLoader",
    "MultiHotDecoder",
    "MultiHotField",
    "SamplerOrder",
    "attach",
    "check",
    "order",
    "targets",
    "write",
]
