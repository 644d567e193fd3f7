"""The gradient of average pooling whose windows do not overlap, without a transposed convolution.

As differentiated, it is the transposed convolution of dy, divided by the size of a window, with ones. Where windows of
k elements come every s >= k, each element of the plane belongs to one window or to none:

    dx = up(dy / k^2) * inside        up: nearest upsampling by s;  inside: 1 on the first k of every s elements, else 0

which is plain upsampling where k = s. Reason: engines treat a convolution of single planes as such, one tap at a time;
OpenVINO takes as long for the strided shortcut of ResNet-20 as for six of its 3x3 convolutions. ONNX Runtime's CPU
provider gains nothing. An infinite dy turns into NaN where its window leaves elements out.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value, shape_of
from netc.rewrite.replay import Inputs


def upsample(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite the Reshape [N, C, H, W] of single planes that a ConvTranspose with ones gave; windows apart, no padding.

    The planes in front of it [N * C, 1, h, w] have to come from [N, C, h, w].
    """
    spread = inputs[0].producer() if inputs[0] is not None else None
    if spread is None or spread.op_type != "ConvTranspose":
        return None
    planes, transposed = Site(spread).x[0].producer(), Site(spread)
    share = planes.inputs[0] if planes is not None and planes.op_type == "Reshape" else None
    taps = constant_value(transposed.x[1])
    if share is None or taps is None or taps.shape[:2] != (1, 1) or not (taps == 1).all():
        return None
    shape, small = [int(n) for n in shape_of(site.y)], [int(n) for n in shape_of(share)]
    kernel, strides = taps.shape[2:], transposed.attribute("strides") or []
    if len(shape) != 4 or any(transposed.attribute("pads") or ()) or small[:2] != shape[:2]:
        return None
    apart = all(s >= k for k, s in zip(kernel, strides, strict=False))
    if len(strides) != 2 or not apart or shape[2:] != [n * s for n, s in zip(small[2:], strides, strict=True)]:
        return None
    up = g.Resize(
        share,
        None,
        np.array([1, 1, *strides], np.float32),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    if list(kernel) == strides:
        return (up,)
    inside = [np.arange(n) % s < k for n, k, s in zip(shape[2:], kernel, strides, strict=True)]
    return (up * g.constant(np.multiply.outer(*inside).astype((share.dtype or g.dtype).numpy())[None, None]),)
