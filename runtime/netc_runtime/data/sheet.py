"""A contact sheet: training samples side by side in one image, for people to look at.

Without variants each row is a class. With variants, such as augmented samples, each row is one sample and what became
of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from netc_runtime.arrays import Array, shape_text
from netc_runtime.data.base import Source
from netc_runtime.data.order import permutation
from netc_runtime.errors import DriverError, ExitCode
from netc_runtime.images import require_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

Variants: TypeAlias = Callable[[npt.NDArray[np.intp]], Sequence[Array]]
"""Given indices of n training samples, returns what k draws make of them: k arrays [n, C, H, W] of raw values."""

_ROWS, _COLUMNS = 20, 12
_CELL = 96  # pixels of the longer side of a sample, about
_GAP, _MARGIN = 4, 8
_NAME_WIDTH, _LINE = 140, 12
_PAPER, _INK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Row:
    """Images [C, H, W] that stand side by side, and the name before them."""

    name: str
    images: Sequence[Array]


def contact_sheet(source: Source, variants: Variants | None = None) -> bytes:
    """Return a PNG of training samples; raises DriverError: 3 without Pillow, 2 if samples are no images."""
    require_pillow()
    images = source.train.get("image")
    if images is None or images.ndim != 4 or images.shape[1] not in (1, 3):
        found = "no image" if images is None else f"an image as {shape_text(images.shape[1:])}"
        raise DriverError(
            f"there is no contact sheet of this data: it gives {found}, where [1, H, W] or [3, H, W] can be shown",
            ExitCode.USAGE,
        )
    rows = _rows_of_classes(source) if variants is None else _rows_of_samples(source, variants)
    content = BytesIO()
    _drawn(rows, *_limits(source, rows)).save(content, "PNG")
    return content.getvalue()


def _rows_of_classes(source: Source) -> list[Row]:
    images = source.train["image"]
    return [
        Row(name, [np.asarray(images[int(index)]) for index in indices[:_COLUMNS]])
        for name, indices in _grouped(source)
    ]


def _rows_of_samples(source: Source, variants: Variants) -> list[Row]:
    groups = _grouped(source)
    # From each class in turn, so that all are seen before any is seen twice.
    turns = [
        (name, indices[turn])
        for turn in range(_ROWS)
        for name, indices in groups
        if turn < len(indices)
    ][:_ROWS]  # fmt: skip
    chosen = np.array([index for _, index in turns])
    originals, draws = np.asarray(source.train["image"][chosen]), variants(chosen)
    return [Row(name, [originals[place], *(draw[place] for draw in draws)]) for place, (name, _) in enumerate(turns)]


def _grouped(source: Source) -> list[tuple[str, npt.NDArray[np.intp]]]:
    """Return classes with the indices of their training samples, in a fixed order that is drawn from all of them."""
    order = permutation(0, 0, len(source.train["image"]))
    labels = source.train.get("label")
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return [
            ("", order[start : start + _COLUMNS]) for start in range(0, min(len(order), _ROWS * _COLUMNS), _COLUMNS)
        ]
    own = np.asarray(labels[:])[order]
    found = []
    for label in np.unique(own)[:_ROWS]:
        name = source.classes[label] if 0 <= label < len(source.classes) else str(label)
        found.append((name, order[own == label]))
    return found


def _limits(source: Source, rows: Sequence[Row]) -> tuple[float, float]:
    """Return what is shown as black and as white: the declared range, that of the source, or that of other samples."""
    if source.declared_range is not None:
        return source.declared_range
    low, high = source.value_range
    originals = [row.images[0] for row in rows]
    finite = [one[np.isfinite(one)] for one in originals]
    least = min((float(one.min()) for one in finite if one.size), default=low)
    largest = max((float(one.max()) for one in finite if one.size), default=high)
    if low <= least and largest <= high and (rows[0].images[0].dtype.kind in "iu" or largest > 1):
        return low, high
    return least, max(largest, least + 1e-6)


def _drawn(rows: Sequence[Row], low: float, high: float) -> "Image":
    from PIL import Image, ImageDraw

    height, width = rows[0].images[0].shape[-2:]
    scale = _CELL / max(height, width)
    scale = float(max(int(scale), 1)) if scale >= 1 else scale
    cell = max(round(width * scale), 1), max(round(height * scale), 1)
    left = _NAME_WIDTH if any(row.name for row in rows) else _MARGIN
    pitch = max(cell[1], _LINE) + _GAP
    columns = max(len(row.images) for row in rows)
    size = left + columns * (cell[0] + _GAP) + _MARGIN, 2 * _MARGIN + len(rows) * pitch
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        top = _MARGIN + line * pitch
        # The font that ships with Pillow may lack letters; a name is better half shown than not at all.
        draw.text((_MARGIN, top), row.name.encode("latin-1", "replace").decode("latin-1")[:22], fill=_INK)
        for column, image in enumerate(row.images):
            values = np.nan_to_num(np.asarray(image, np.float32), nan=low, posinf=high, neginf=low)
            pixels = np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)
            picture = Image.fromarray(
                np.ascontiguousarray(np.broadcast_to(pixels, (3, height, width)).transpose(1, 2, 0))
            )
            kind = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR
            sheet.paste(picture.resize(cell, kind), (left + column * (cell[0] + _GAP), top))
    return sheet
