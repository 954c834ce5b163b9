"""FFCV: orders, loading, reading and writing. The only place that imports `ffcv`.

`order` and `attach` make an FFCV `Loader` read what a sampler draws; `BalancedLoader` iterates it.
"""

from __future__ import annotations

try:
    import ffcv as _ffcv  # noqa: F401
except ImportError as error:
    raise ImportError(
        "equipoise.ffcv needs FFCV: pip install 'equipoise[ffcv]' (it is built from source; see "
        f"docs/ffcv.md). Importing it said: {error}"
    ) from error

from equipoise.ffcv.loading import BalancedLoader
from equipoise.ffcv.orders import SamplerOrder, attach, order

__all__ = ["BalancedLoader", "SamplerOrder", "attach", "order"]
