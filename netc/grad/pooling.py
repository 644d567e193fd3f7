"""Gradients of pooling operators, in any number of spatial dimensions."""

import functools
import math

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, shape_of


def max_pool_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Send dy to the first maximum of each window, adding where windows overlap.

    The Indices of MaxPool count over the whole flattened input, which makes the gradient one scatter. Float16 is added
    up in float32: ONNX Runtime's CPU provider refuses a scatter that adds float16.
    """
    shape = [int(n) for n in shape_of(site.x[0])]
    _, indices = g.widen(site.node, 2)
    kernel, strides = site.attribute("kernel_shape"), site.attribute("strides") or [1] * (len(shape) - 2)
    dilations = site.attribute("dilations") or [1] * len(kernel)
    if site.attribute("storage_order"):
        raise AssertionError(f"{site.node.name}: storage_order 1 has no differentiation rule; its Indices differ")
    # Dilated windows interleave: what counts is how far one reaches.
    apart = all(d * (k - 1) < s for k, s, d in zip(kernel, strides, dilations, strict=True))
    flat = np.array([-1], np.int64)
    narrow = dy.dtype == ir.DataType.FLOAT16 and not apart
    dy = g.Cast(dy, to=ir.DataType.FLOAT) if narrow else dy
    zeros = g.ConstantOfShape(
        g.constant(np.array([math.prod(shape)], np.int64)),
        value=ir.tensor(np.zeros(1, (dy.dtype or g.dtype).numpy())),
    )
    # Without overlap every index occurs once: "none" is deterministic on every device.
    spread = g.ScatterElements(
        zeros, g.Reshape(indices, flat), g.Reshape(dy, flat), axis=0, reduction="none" if apart else "add"
    )
    spread = g.Cast(spread, to=ir.DataType.FLOAT16) if narrow else spread
    return g.Reshape(spread, np.array(shape, np.int64))


def average_pool_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Spread dy / (number of averaged elements) over each window: a transposed convolution with ones."""
    n, c, *size = (int(d) for d in shape_of(site.x[0]))
    kernel = site.attribute("kernel_shape")
    axes = len(size)
    strides = site.attribute("strides") or [1] * axes
    pads = site.attribute("pads") or [0] * (2 * axes)
    if site.attribute("auto_pad") not in (b"NOTSET", "NOTSET"):
        raise AssertionError(f"{site.node.name}: auto_pad has no differentiation rule; give explicit pads")
    if site.attribute("ceil_mode"):
        raise AssertionError(f"{site.node.name}: ceil_mode has no differentiation rule; give explicit pads")
    outs = [int(d) for d in shape_of(dy)[2:]]
    dtype = (dy.dtype or g.dtype).numpy()
    counts = []
    for i in range(axes):
        starts = np.arange(outs[i]) * strides[i] - pads[i]
        inside = np.minimum(starts + kernel[i], size[i]) - np.maximum(starts, 0)
        counts.append(inside if not site.attribute("count_include_pad") else np.full(outs[i], kernel[i]))
    divisor = functools.reduce(np.multiply.outer, counts).astype(dtype)
    share = g.Reshape(dy * g.constant(1 / divisor), np.array([n * c, 1, *outs], np.int64))
    reached = [(outs[i] - 1) * strides[i] + kernel[i] - pads[i] - pads[i + axes] for i in range(axes)]
    unreached = [n - r for n, r in zip(size, reached, strict=True)]
    spread = g.ConvTranspose(
        share,
        g.constant(np.ones([1, 1, *kernel], dtype)),
        strides=strides,
        pads=pads,
        output_padding=unreached if any(unreached) else None,
    )
    return g.Reshape(spread, np.array([n, c, *size], np.int64))


def global_average_pool_dx(g: GraphBuilder, site: Site, dy: ir.Value) -> ir.Value:
    """Give every element of a plane the same share of dy."""
    shape = [int(n) for n in shape_of(site.x[0])]
    return g.Expand(dy * (1.0 / math.prod(shape[2:])), np.array(shape, np.int64))
