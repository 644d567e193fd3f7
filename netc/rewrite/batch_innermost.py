"""Small unpadded convolutions, and what stands between them, with the batch innermost.

A tensor x [N, C, H, W] is carried as one image [1, C, H, W * N] whose columns hold the samples of a pixel side by side:

    Conv(x, w, dilations [d, e])           = Conv(carried x, w, dilations [d, e * N])
    ConvTranspose(dy, w, dilations [d, e]) = ConvTranspose(carried dy, w, dilations [d, e * N])

Elementwise operators, batch normalization and sums over all but the channels see one sample, and compute the same.
Reason: ONNX Runtime's CPU provider multiplies one matrix a sample, which for planes of 8x8 is too narrow for its
kernels and its threads; here one product does for all samples, and everything is copied in runs of N or more. The
gradient of 2x2 max pooling gains most. Its windows are two pairs, of columns and then of rows, whose halves are split
once for both ways:

    m = max(left, right)                   y = max(upper m, lower m)
    d_upper = (upper m >= lower m) * dy    d_lower = dy - d_upper
    d_left = (left >= right) * dm          d_right = dm - d_left

Left before right and upper before lower is the tie rule of Indices, the first maximum in row order; a NaN in x sends dy
to some element of its window. The transposed convolution holds the columns of the whole batch, ci * k * k * oh * ow * N
numbers: where they leave the cache, it loses more than the rest gains. Float16 stays as it is: the provider computes it
in float32 and rounds between some operators alone, so that a maximum need not equal the element that it is.

Each rule unpacks its result with a transpose, which the next rule sees through, so that those inside a region are dead.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.rewrite.max_pool_gradient import scattered_by, tiled, unflattened
from netc.rewrite.replay import Inputs, ReplayRule
from netc.rewrite.weight_gradient import FEWEST_CHANNELS, correlate, exchanged

# Numbers in the columns of the batch (measured, 3x3 and 5x5 kernels: 4.7 million gain, 9.4 million lose).
MOST_COLUMNS = 6_000_000
# Samples: fewer leave the vector units of 512 bits partly empty.
FEWEST_SAMPLES = 16

_PACK, _UNPACK = [1, 2, 3, 0], [3, 0, 1, 2]


def begins(node: ir.Node) -> bool:
    """Say whether a node is a convolution where a region begins."""
    site = Site(node)
    if node.op_type != "Conv" or len(shape_of(site.x[0])) != 4 or constant_value(site.x[1]) is not None:
        return False
    channels, *kernel = (int(d) for d in shape_of(site.x[1])[1:])
    samples, _, *plane = (int(d) for d in shape_of(site.y))
    columns = channels * math.prod(kernel) * math.prod(plane) * samples
    fits = samples >= FEWEST_SAMPLES and math.prod(kernel) > 1 and columns <= MOST_COLUMNS
    return fits and _dense(site) and exchanged(site.x[0]) is None and site.y.dtype != ir.DataType.FLOAT16


def convolution(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Begin or continue a region at a forward convolution."""
    x, w, *bias = inputs
    assert x is not None
    if not begins(site.node):
        return None
    n = int(shape_of(x)[0])
    y = g.Conv(_pack(g, x), w, *bias, dilations=_widened(site, n))
    return (_unpack(g, y, n),)


def input_gradient(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Continue a region at a ConvTranspose."""
    dy, w, *bias = inputs
    carried = _carried(dy)
    if carried is None or dy is None or not _dense(site) or site.attribute("output_padding") is not None:
        return None
    n = int(shape_of(dy)[0])
    dx = g.ConvTranspose(carried, w, *bias, dilations=_widened(site, n))
    return (_unpack(g, dx, n),)


def weight_gradient(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """End a region at a weight gradient, which is interleaved as in `weight_gradient`; one channel is unrolled.

    With one input channel, dw = dy [co, oh * ow * N] times the shifted planes [kh * kw, oh * ow * N] transposed.
    """
    x, dy = (exchanged(value) for value in inputs[:2])
    carried = _carried(dy)
    if x is None or dy is None or carried is None or len(site.x) != 2 or site.attribute("group") != 1:
        return None
    if any(stride != 1 for stride in site.attribute("strides") or [1, 1]) or any(site.attribute("pads") or ()):
        return None
    n, ci, height, width = (int(d) for d in shape_of(x))
    co, out_height, out_width = (int(d) for d in shape_of(dy)[1:])
    image = _pack(g, x)
    if ci < FEWEST_CHANNELS:
        down, across = site.attribute("dilations") or [1, 1]
        taps_down, taps_across = (int(d) for d in shape_of(site.y)[2:])
        if (down, across) != (1, 1) or ci != 1:
            return None
        planes = _shifted_planes(g, image, (height, width, n), (taps_down, taps_across))
        flat = np.array([-1, out_height * out_width * n], np.int64)
        dw = g.Gemm(g.Reshape(carried, flat), planes, transB=1)
        return (g.Reshape(dw, np.array([1, co, taps_down, taps_across], np.int64)),)
    by_sample = g.Transpose(g.Reshape(image, np.array([ci, height * width, n], np.int64)), perm=[0, 2, 1])
    # By way of channels, samples, pixels: two transposes that ONNX Runtime has fast kernels for, where one has none.
    last = g.Transpose(g.Reshape(by_sample, np.array([ci, n * height * width], np.int64)), perm=[1, 0])
    rows = g.Reshape(last, np.array([1, n, height, width * ci], np.int64))
    planes = g.Reshape(carried, np.array([co, out_height, out_width, n], np.int64))
    return (correlate(g, site, rows, g.Transpose(planes, perm=[0, 3, 1, 2]), ci),)


def _shifted_planes(g: GraphBuilder, image: ir.Value, size: tuple[int, int, int], taps: tuple[int, int]) -> ir.Value:
    """Return what each tap reads of an image [1, 1, H, W * N], as [kh * kw, oh * ow * N]: columns first, then rows."""
    height, width, n = size
    high, wide = (length - tap + 1 for length, tap in zip((height, width), taps, strict=True))
    columns = np.arange(taps[1])[:, None] + np.arange(wide)  # [kw, ow]
    shifted = g.Gather(g.Reshape(image, np.array([height, width, n], np.int64)), columns, axis=1)  # [H, kw, ow, N]
    # Row u + r of the shift v, of all H * kw rows, is where the tap (u, v) finds row r of the result.
    rows = (np.arange(taps[0])[:, None, None] + np.arange(high)) * taps[1] + np.arange(taps[1])[:, None]
    found = g.Gather(g.Reshape(shifted, np.array([height * taps[1], wide * n], np.int64)), rows.reshape(-1), axis=0)
    return g.Reshape(found, np.array([taps[0] * taps[1], high * wide * n], np.int64))


def max_pool(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Continue a region at a 2x2 stride-2 MaxPool on even planes; its Indices, if any, stay as they are."""
    carried = _carried(inputs[0])
    if carried is None or inputs[0] is None or not tiled(site):
        return None
    n, c, height, width = (int(d) for d in shape_of(site.y))
    wide = g.Max(*_halves(g, carried, n))
    whole = g.Max(*_halves(g, wide, width * n))
    y = _unpack(g, g.Reshape(whole, np.array([1, c, height, width * n], np.int64)), n)
    rest = g.ops("MaxPool", *inputs, num_outputs=len(site.node.outputs), **site.attributes())[1:]
    return y, *rest


def max_pool_gradient(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Continue a region at the scatter of a gradient to the Indices of such a MaxPool."""
    pool, spread = scattered_by(inputs)
    if pool is None or spread is None:
        return None
    x, y = Site(pool).x[0], pool.outputs[0]
    carried = _carried(x)
    if carried is None or not tiled(Site(pool)) or shape_of(spread) != shape_of(y):
        return None
    n, c, height, width = (int(d) for d in shape_of(x))
    left, right = _halves(g, carried, n)
    upper, lower = _halves(g, g.Max(left, right), width // 2 * n)
    rows = _given(g, upper, lower, g.Reshape(_pack(g, spread), np.array([-1, 1, width // 2 * n], np.int64)))
    columns = _given(g, left, right, g.Reshape(rows, np.array([-1, 1, n], np.int64)))
    dx = _unpack(g, g.Reshape(columns, np.array([1, c, height, width * n], np.int64)), n)
    return (g.Reshape(dx, np.array([-1], np.int64)),)


def _halves(g: GraphBuilder, x: ir.Value, size: int) -> Sequence[ir.Value]:
    """Return the even and the odd runs of `size` numbers, [M, 1, size] each."""
    pairs = g.Reshape(x, np.array([-1, 2, size], np.int64))
    return g.ops("Split", pairs, np.array([1, 1], np.int64), num_outputs=2, axis=1)


def _given(g: GraphBuilder, first: ir.Value, second: ir.Value, dy: ir.Value) -> ir.Value:
    """Give dy [M, 1, K] to the larger of two halves [M, 1, K], to the first of equals: [M, 2, K]."""
    given = g.Cast(g.GreaterOrEqual(first, second), to=first.dtype) * dy
    return g.Concat(given, dy - given, axis=1)


def elementwise(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Continue a region at an operator on whole tensors, numbers and one number a channel."""
    shape = shape_of(site.y)
    if not any(_carried(value) is not None and shape_of(value) == shape for value in inputs if value is not None):
        return None
    operands = list[ir.Value]()
    for value in inputs:
        if value is None:
            return None
        size = [int(d) for d in shape_of(value)]
        by_channel = size[1:] == [1, 1] or (size[:1] == [1] and size[2:] == [1, 1])
        if shape_of(value) != shape and math.prod(size) != 1 and not by_channel:
            return None
        operands.append(_pack(g, value) if shape_of(value) == shape else value)
    return (_unpack(g, g.op(site.node.op_type, *operands, **site.attributes()), int(shape[0])),)


def channel_sum(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """End a region at a sum over all but the channels."""
    carried = _carried(inputs[0])
    axes = constant_value(site.x[1]) if len(site.x) > 1 else None
    if carried is None or axes is None or axes.tolist() != [0, 2, 3]:
        return None
    return (g.op(site.node.op_type, carried, *inputs[1:], **site.attributes()),)


def normalization(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Continue a region at a BatchNormalization, which sums over samples and pixels alike."""
    carried = _carried(inputs[0])
    if carried is None:
        return None
    outputs = len(site.node.outputs)
    y, *statistics = g.ops("BatchNormalization", carried, *inputs[1:], num_outputs=outputs, **site.attributes())
    return _unpack(g, y, int(shape_of(site.y)[0])), *statistics


def reshaped_back(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """See through a Reshape that undoes another."""
    source = unflattened(inputs[0])
    return (source,) if source is not None and shape_of(source) == shape_of(site.y) else None


def _dense(site: Site) -> bool:
    """Say whether a convolution has strides of 1, no padding and one group."""
    strides, pads = site.attribute("strides") or [1], site.attribute("pads") or [0]
    return set(strides) == {1} and set(pads) == {0} and site.attribute("group") == 1


def _widened(site: Site, n: int) -> list[int]:
    """Return the dilations of a convolution with the samples inside its rows."""
    down, across = site.attribute("dilations") or [1, 1]
    return [down, across * n]


def _carried(value: ir.Value | None) -> ir.Value | None:
    """Return [1, C, H, W * N] where `value` [N, C, H, W] was unpacked from that."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose" or Site(node).attribute("perm") != _UNPACK:
        return None
    source = unflattened(node.inputs[0])
    if value is None or source is None:
        return None
    n, c, height, width = shape_of(value)
    return source if shape_of(source) == [1, c, height, int(width) * int(n)] else None


def _pack(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """View x [N, C, H, W] as [1, C, H, W * N]."""
    carried = _carried(x)
    if carried is not None:
        return carried
    n, c, height, width = (int(d) for d in shape_of(x))
    return g.Reshape(g.Transpose(x, perm=_PACK), np.array([1, c, height, width * n], np.int64))


def _unpack(g: GraphBuilder, v: ir.Value, n: int) -> ir.Value:
    """View v [1, C, H, W * N] as [N, C, H, W]."""
    _, c, height, columns = (int(d) for d in shape_of(v))
    return g.Transpose(g.Reshape(v, np.array([c, height, columns // n, n], np.int64)), perm=_UNPACK)


# fmt: off
ELEMENTWISE = (
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Greater", "GreaterOrEqual", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign", "Softplus",
    "Sqrt", "Sub", "Tanh", "Where",
)
# fmt: on
RULES: dict[str, Sequence[ReplayRule]] = {
    "BatchNormalization": (normalization,),
    "Conv": (convolution, weight_gradient),
    "ConvTranspose": (input_gradient,),
    "MaxPool": (max_pool,),
    "ReduceMean": (channel_sum,),
    "ReduceSum": (channel_sum,),
    "Reshape": (reshaped_back,),
    "ScatterElements": (max_pool_gradient,),
    **dict.fromkeys(ELEMENTWISE, (elementwise,)),
}
