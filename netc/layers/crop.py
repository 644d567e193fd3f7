"""The layer that cuts one plane to another."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import ConfigDict, PlainValidator, TypeAdapter

from netc.declared import as_list
from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context
from netc.layers.coordinates import offsets_between
from netc.layers.shapes import sample_axis

_OFFSETS: TypeAdapter[list[int]] = TypeAdapter(list[int], config=ConfigDict(strict=True))
_Offset = int | list[int] | Literal["auto"]


def _offset(value: Any) -> list[int] | Literal["auto"]:
    """Take `auto`, one number, or a list of one for each axis."""
    return "auto" if value == "auto" else _OFFSETS.validate_python(as_list(value))


@LAYERS.add
class Crop(Layer):
    """Cut the first bottom to the size of the second along `axis` and all axes behind it, from `offset` on.

    `offset` is one number, or one for each axis that is cut. With `offset: auto` the planes are aligned as their
    common ancestor says, of which strides and pads have moved both, as in FCN and HED; layers that are no such windows,
    as Upsample, are not followed. No gradient reaches the second bottom.

    Example:
        - {name: conv1, type: Convolution, num_output: 8, kernel_size: 3}
        - {name: centre, type: Crop, bottom: [image, conv1], offset: 1}
    """

    type: Literal["Crop"] = "Crop"
    axis: int = 2
    """First axis that is cut; 2 is the first of a plane."""
    offset: Annotated[list[int] | Literal["auto"], PlainValidator(_offset, json_schema_input_type=_Offset)] = [0]
    """Where the cut begins: one number, one for each axis, or auto."""

    min_bottoms: ClassVar[int] = 2
    max_bottoms: ClassVar[int | None] = 2
    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        have, want = shape_of(x[0]), shape_of(x[1])
        axis = sample_axis(x[0], self.axis)
        if len(have) != len(want):
            raise LayerError(f"bottoms have different numbers of axes: {sample(x[0])} and {sample(x[1])}", "bottom")
        cut = len(have) - axis
        given = self._aligned(axis, *x) if self.offset == "auto" else self.offset
        if len(given) not in (1, cut):
            raise LayerError(
                f"offset: needs 1 or {cut} numbers for the axes from {self.axis} on, got {len(given)}", "offset"
            )
        starts = given * cut if len(given) == 1 else given
        ends = [start + int(n) for start, n in zip(starts, want[axis:], strict=True)]
        if min(starts) < 0 or any(end > int(n) for end, n in zip(ends, have[axis:], strict=True)):
            raise LayerError(
                f"offset {starts} and the size {sample(x[1])} reach outside the input {sample(x[0])}", "offset"
            )
        bounds = (np.array(each, np.int64) for each in (starts, ends, range(axis, len(have))))
        return net.g.Slice(x[0], *bounds)

    def _aligned(self, axis: int, source: ir.Value, reference: ir.Value) -> list[int]:
        """Return the offsets that put the first bottom where the second lies.

        Raises:
            LayerError: the two have no common ancestor, other strides, or half an element between them.
        """
        if axis != 2:
            raise LayerError(f"offset: auto aligns planes, from axis 2 on, not from axis {self.axis}", "offset")
        found = offsets_between(source, reference)
        if found is None:
            raise LayerError(
                "offset: auto finds no layer or input that both bottoms come from position by position; give numbers",
                "offset",
            )
        starts, ratios = found
        if any(ratio != 1 for ratio in ratios):
            steps = " and ".join(str(ratio) for ratio in dict.fromkeys(ratios))
            raise LayerError(
                f"offset: auto needs bottoms of one resolution, and {steps} elements of the first lie in the place of "
                "one of the second; change a stride",
                "offset",
            )
        if any(start.denominator != 1 for start in starts):
            raise LayerError(
                f"offset: auto gives {', '.join(str(float(start)) for start in starts)}, between two elements; change "
                "a kernel_size or pad by one, or give numbers",
                "offset",
            )
        return [int(start) for start in starts]
