"""A transposed convolution of stride 1 is a convolution with flipped kernels.

    ConvTranspose(dy, w, pad p) = Conv(dy, flip(w)^T, pad d (k - 1) - p)

where flip reverses the spatial axes and ^T exchanges input and output channels. Reason: ONNX Runtime's CPU provider has
a threaded, blocked Conv, while its ConvTranspose scatters; 1.5 times as fast for 3x3 kernels. The flip costs one gather
over the small weight. It needs p <= d (k - 1) and one group; larger strides stay as they are. The convolution also
multiplies with the zeros of its padding: where the output is much larger than dy (no padding in the forward pass, small
planes), that costs more than it saves.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.rewrite.replay import Inputs

# Largest size of the output, in units of dy's, for which the zeros are worth it (measured: 1 gains, 2.25 loses).
LARGEST_GROWTH = 1.5


def flip(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a ConvTranspose whose every stride is 1; its bias, if any, stays one."""
    cin, cout, *kernel = (int(d) for d in shape_of(site.x[1]))
    axes = len(kernel)
    ones = [1] * axes
    pads = site.attribute("pads") or [0] * (2 * axes)
    dilations = site.attribute("dilations") or ones
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)] * 2
    fits = all(p <= r for p, r in zip(pads, reach, strict=True))
    if (site.attribute("strides") or ones) != ones or site.attribute("group") != 1 or not fits:
        return None
    if math.prod(map(int, shape_of(site.y)[2:])) > LARGEST_GROWTH * math.prod(map(int, shape_of(site.x[0])[2:])):
        return None
    if site.attribute("output_padding") is not None or constant_value(site.x[1]) is not None:
        return None
    dy, w, *bias = (value for value in inputs if value is not None)
    taps = math.prod(kernel)
    if taps > 1:
        flat = g.Reshape(w, np.array([cin, cout, taps], np.int64))
        w = g.Reshape(g.Gather(flat, np.arange(taps)[::-1].copy(), axis=2), np.array([cin, cout, *kernel], np.int64))
    w = g.Transpose(w, perm=[1, 0, *range(2, 2 + axes)])
    complement = [r - p for r, p in zip(reach, pads, strict=True)]
    return (g.Conv(dy, w, *bias, pads=complement, dilations=dilations),)
