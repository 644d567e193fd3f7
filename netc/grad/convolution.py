"""Gradients of Conv and ConvTranspose, in any number of spatial dimensions.

With y = Conv(x, w), stride s, dilation d, pads p (Dumoulin & Visin, A guide to convolution arithmetic):
- dx is the transposed convolution of dy with w;
- dw[o, c, t] = sum over n, q of dy[n, o, q] * x[n, c, q*s + t*d - p]: a convolution of x with dy in which the batch
  is summed over like channels and stride and dilation change places.
ConvTranspose is the adjoint of Conv, so its rules are the same two functions with x and dy exchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of


@dataclass(frozen=True)
class Geometry:
    """Strides, dilations, pads (all begins, then all ends) and group of one convolution."""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    pads: Sequence[int]
    group: int

    @classmethod
    def of(cls, site: Site) -> "Geometry":
        """Read the geometry off a Conv or ConvTranspose with explicit pads."""
        if site.attribute("auto_pad") not in (b"NOTSET", "NOTSET"):
            raise AssertionError(f"{site.node.name}: auto_pad has no differentiation rule; give explicit pads")
        if "output_shape" in site.node.attributes:
            raise AssertionError(f"{site.node.name}: output_shape has no differentiation rule; give explicit pads")
        kernel = [int(n) for n in shape_of(site.x[1])[2:]]
        ones = [1] * len(kernel)
        return cls(
            kernel,
            site.attribute("strides") or ones,
            site.attribute("dilations") or ones,
            site.attribute("pads") or [0] * (2 * len(kernel)),
            site.attribute("group"),
        )


def input_gradient(g: GraphBuilder, dy: ir.Value, w: ir.Value, size: Sequence[int], geo: Geometry) -> ir.Value:
    """Return dx of a Conv whose input has the spatial `size`, from dy [N, co, ...] and w [co, ci/group, ...]."""
    axes = len(geo.kernel)
    reached = [
        (int(out) - 1) * geo.strides[i] + geo.dilations[i] * (geo.kernel[i] - 1) + 1 - geo.pads[i] - geo.pads[i + axes]
        for i, out in enumerate(shape_of(dy)[2:])
    ]
    # The last rows of x that no window reaches, because the division rounded down.
    unreached = [n - r for n, r in zip(size, reached, strict=True)]
    return g.ConvTranspose(
        dy,
        w,
        strides=geo.strides,
        dilations=geo.dilations,
        pads=geo.pads,
        group=geo.group,
        output_padding=unreached if any(unreached) else None,
    )


def weight_gradient(g: GraphBuilder, x: ir.Value, dy: ir.Value, geo: Geometry) -> ir.Value:
    """Return dw [co, ci/group, ...] of a Conv from x [N, ci, ...] and dy [N, co, ...]."""
    n, ci, *size = (int(d) for d in shape_of(x))
    outs = [int(d) for d in shape_of(dy)[2:]]
    axes = len(size)
    spatial = list(range(2, 2 + axes))
    # Rows at the end that no window reaches would give further, meaningless taps: take them off the end padding, and
    # off x where there is not enough of that.
    begin, end = list(geo.pads[:axes]), list(geo.pads[axes:])
    keep = list(size)
    for i in range(axes):
        used = (outs[i] - 1) * geo.strides[i] + geo.dilations[i] * (geo.kernel[i] - 1) + 1
        excess = begin[i] + size[i] + end[i] - used
        end[i] -= min(excess, end[i])
        keep[i] = used - begin[i] - end[i]
    if keep != size:
        x = g.Slice(x, np.zeros(axes, np.int64), np.array(keep, np.int64), np.array(spatial, np.int64))
    if geo.group == 1:
        image = g.Transpose(x, perm=[1, 0, *spatial])
    else:
        # A channel's place within its group takes the batch axis; (group, sample) are the channels.
        split = g.Reshape(x, np.array([n, geo.group, ci // geo.group, *keep], np.int64))
        turned = g.Transpose(split, perm=[2, 1, 0, *(axis + 1 for axis in spatial)])
        image = g.Reshape(turned, np.array([ci // geo.group, geo.group * n, *keep], np.int64))
    kernel = g.Transpose(dy, perm=[1, 0, *spatial])
    dw = g.Conv(image, kernel, strides=geo.dilations, dilations=geo.strides, pads=begin + end, group=geo.group)
    return g.Transpose(dw, perm=[1, 0, *spatial])


def conv_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Rule of Conv for its input."""
    return input_gradient(g, dy, site.x[1], [int(n) for n in shape_of(site.x[0])[2:]], Geometry.of(site))


def conv_dw(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Rule of Conv for its weight."""
    return weight_gradient(g, site.x[0], dy, Geometry.of(site))


def conv_db(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Rule of Conv and ConvTranspose for the bias."""
    axes = [0, *range(2, len(shape_of(dy)))]
    return g.ReduceSum(dy, np.array(axes, np.int64), keepdims=0)


def conv_transpose_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Rule of ConvTranspose for its input: the convolution that it is the adjoint of."""
    geo = Geometry.of(site)
    return g.Conv(dy, site.x[1], strides=geo.strides, dilations=geo.dilations, pads=geo.pads, group=geo.group)


def conv_transpose_dw(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Rule of ConvTranspose for its weight."""
    return weight_gradient(g, dy, site.x[0], Geometry.of(site))
