"""read_beton: an FFCV file, its labels, and batches through FFCV's own loader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.training.files import Contents

__all__ = ["read_beton"]


def read_beton(path: Path, inputs: str | None, field: str, size: int) -> Contents:
    """Images, or arrays of features, and the targets in `field`; nothing is decoded yet.

    Args:
        path: of the file.
        inputs: name of the field; by default the first of images, or else of arrays.
        field: name of the labels.
        size: height and width of what is cut from the middle of images of several sizes; images
            of one size are taken as they are.
    """
    try:
        from ffcv.fields import NDArrayField, RGBImageField
    except ImportError as error:
        raise ImportError(
            "Reading .beton needs FFCV, which is built from source: pip install 'equipoise[ffcv]'"
        ) from error
    from equipoise.ffcv import check, targets

    reader = check(path)
    fields = {name: handler for name, handler in reader.handlers.items() if name != field}
    able = [
        n
        for kind in (RGBImageField, NDArrayField)
        for n, f in fields.items()
        if isinstance(f, kind)
    ]
    name = inputs if inputs is not None else (able[0] if able else None)
    if name is None or name not in able:
        wanted = "images or arrays" if inputs is None else f"images or arrays in {inputs!r}"
        raise ValueError(
            f"Expected {path} to hold {wanted} beside its labels, but it holds "
            f"{list(reader.handlers)}."
        )
    found = targets(path, field)
    handler = reader.handlers[name]
    stored = reader.metadata[f"f{list(reader.handlers).index(name)}"]
    if isinstance(handler, NDArrayField):
        shape: tuple[int, ...] = tuple(int(n) for n in handler.shape)
        if len(shape) != 1:
            raise ValueError(f"Expected {name!r} to hold rows of features, but got shape {shape}.")
        source = Beton(path, list(reader.handlers), name, shape, uniform=True)
    else:
        sizes = np.unique(np.stack([stored["height"], stored["width"]], 1), axis=0)
        uniform = len(sizes) == 1
        height, width = sizes[0].tolist() if uniform else (size, size)
        shape = (int(height), int(width), 3)
        source = Beton(path, list(reader.handlers), name, shape, uniform=uniform)
    source.length = found.num_examples
    return Contents(source, found, None, None)


class Beton:
    """The inputs of a `.beton`; `shape` is that of one example."""

    length = 0

    def __init__(
        self, path: Path, fields: list[str], name: str, shape: tuple[int, ...], *, uniform: bool
    ) -> None:
        self.path, self.fields, self.name = path, fields, name
        self.shape, self.uniform = shape, uniform

    def __len__(self) -> int:
        return self.length

    def sample(self, ids: np.ndarray) -> np.ndarray:
        """The inputs of some examples."""
        return np.concatenate([x.numpy().copy() for x, _ in self.batches(ids, 1000)])

    def batches(
        self, ids: np.ndarray, batch_size: int, balancer: Any = None, drop_last: bool = False
    ) -> Any:
        """Iterable of `(inputs, positions)`; see `Arrays.batches`."""
        from ffcv.fields.ndarray import NDArrayDecoder
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, SimpleRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        from equipoise.ffcv import BalancedLoader, MultiHotField, check

        if len(self.shape) == 1:
            decoder = NDArrayDecoder()
        elif self.uniform:
            decoder = SimpleRGBImageDecoder()
        else:
            decoder = CenterCropRGBImageDecoder(self.shape[:2], ratio=1)
        custom = {
            name: MultiHotField
            for name, handler in check(self.path).handlers.items()
            if isinstance(handler, MultiHotField)
        }
        pipelines: dict[str, Any] = dict.fromkeys(self.fields)
        pipelines[self.name] = [decoder, ToTensor()]
        loader = Loader(
            os.fspath(self.path),
            min(batch_size, len(ids)),
            num_workers=torch.get_num_threads(),
            os_cache=True,
            order=OrderOption.SEQUENTIAL if balancer is None else balancer.order,
            indices=ids,
            drop_last=drop_last,
            pipelines=pipelines,
            custom_fields=custom,
        )
        return BalancedLoader(loader, with_indices=True)
