"""Views of tensors that layers share; what is refused here names the layer's field."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, shape_of
from netc.layers.base import Layer, LayerError, sample


def sample_axis(x: ir.Value, axis: int, field: str = "axis") -> int:
    """Return `axis` of x counted from the front; `field` is where the user wrote it.

    Raises:
        LayerError: it is no axis of a sample; axis 0 is the batch.
    """
    rank = len(shape_of(x))
    if not -rank <= axis < rank or axis % rank == 0:
        raise LayerError(f"{field} {axis} is not an axis of a sample {sample(x)} (axis 0 is the batch)", field)
    return axis % rank


def end_of(x: ir.Value, first: int, num_axes: int) -> int:
    """Return the axis of x behind `num_axes` axes from `first` on; -1 stands for all that there are.

    Raises:
        LayerError: x has fewer.
    """
    rank = len(shape_of(x))
    if first + num_axes > rank:
        raise LayerError(
            f"num_axes {num_axes} from axis {first} on is more than a sample {sample(x)} has; write -1 for all of them",
            "num_axes",
        )
    return rank if num_axes == -1 else first + num_axes


def channels_of(x: ir.Value, layer: Layer) -> int:
    """Return the number of channels C of x [N, C, ...].

    Raises:
        LayerError: a sample is a scalar.
    """
    shape = shape_of(x)
    if len(shape) < 2:
        raise LayerError(f"{layer.type} needs channels, got {sample(x)} a sample", "bottom")
    return int(shape[1])


def reshape(g: GraphBuilder, x: ir.Value, shape: Sequence[int]) -> ir.Value:
    """View x in another shape; 0 stands for the axis as it is, such as a batch of any size."""
    return g.Reshape(x, np.array(shape, np.int64))


def along(g: GraphBuilder, v: ir.Value, x: ir.Value, axis: int = 1) -> ir.Value:
    """View a parameter so that its axes lie along those of x from `axis` on; one number lies along all."""
    behind = len(shape_of(x)) - axis - len(shape_of(v))
    if shape_of(v) == [1] or behind <= 0:
        return v
    return reshape(g, v, [*(int(n) for n in shape_of(v)), *[1] * behind])


def reduce(g: GraphBuilder, op: str, x: ir.Value, axes: Sequence[int], keepdims: int = 1) -> ir.Value:
    """Reduce x over `axes` with the operator `op`."""
    return g.op(op, x, np.array(axes, np.int64), keepdims=keepdims)
