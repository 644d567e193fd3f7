"""The arithmetic of random bits for OpenVINO: int32 in the place of uint32, exact to the bit.

OpenVINO's CPU plugin computes all integers in int32. Addition and multiplication modulo 2^32 are the same for both
signs, but constants of 2^31 and more are clamped there, and division and comparison go through float32, which
rounds beyond 24 bits. So uint32 becomes int32 of the same bits, of which graph inputs alone are cast, and

- u / 65536, the upper half: with low = (u * 65536) / 65536 and high = (u - low) / 65536, both quotients of multiples
  of 65536 and thus exact in float32, u = high * 65536 + low (mod 2^32), where both are signed. Less the borrow of a
  negative low, and modulo 2^16, high is the upper half.
- u >= t: with a = u - 2^31 and b = t - 2^31 (mod 2^32), the same order holds for the signed a and b, and
  a >= b = (a > b) or (a == b and a - b >= 0). Rounding is monotone: where float32 says a > b it is so, and where it
  says a == b they are so near that their difference is exact.

Every formula holds for exact integers too, so that the graph means the same in every runtime.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value
from netc.rewrite.replay import Inputs, Rules

INT32, UINT32 = ir.DataType.INT32, ir.DataType.UINT32
HALF = 1 << 16
LEAST = -(1 << 31)


def wrap(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite an Add or Mul of uint32."""
    if site.y.dtype != UINT32:
        return None
    return (g.op(site.node.op_type, *(_signed(g, value) for value in inputs)),)


def upper_half(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a Div of uint32, which must be by 65536."""
    if site.y.dtype != UINT32:
        return None
    divisor = constant_value(site.x[1])
    if divisor is None or divisor.size != 1 or int(divisor.item()) != HALF:
        raise AssertionError(f"{site.node.name}: random bits are divided by 65536 only, not by {site.x[1].name}")
    u = _signed(g, inputs[0])
    low = u * HALF / HALF
    high = (u - low) / HALF - _negative(g, low)
    return (high + _negative(g, high) * HALF,)


def at_least(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a GreaterOrEqual of uint32, which must be with a constant."""
    if site.x[0].dtype != UINT32:
        return None
    threshold = constant_value(site.x[1])
    if threshold is None:
        raise AssertionError(f"{site.node.name}: random bits are compared with constants only")
    b = (threshold.astype(np.uint32) + np.uint32(1 << 31)).view(np.int32)
    a = _signed(g, inputs[0]) + LEAST
    difference = a + g.constant(np.negative(b))  # modulo 2^32
    near = g.And(g.Equal(a, g.constant(b)), g.GreaterOrEqual(difference, 0))
    return (g.Or(g.Greater(a, g.constant(b)), near),)


def cast(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite a Cast to uint32 of a count, or of an upper half to a floating-point number."""
    if site.y.dtype == UINT32:
        return (g.Cast(inputs[0], to=INT32),)
    if site.x[0].dtype != UINT32:
        return None
    producer = site.x[0].producer()
    if producer is None or producer.op_type != "Div":
        raise AssertionError(f"{site.node.name}: only the upper half of random bits becomes a number")
    return (g.Cast(inputs[0], to=site.y.dtype),)


def _signed(g: GraphBuilder, value: ir.Value | None) -> ir.Value:
    """Return the int32 of the same bits."""
    assert value is not None, "arithmetic has no optional inputs"
    if value.dtype != UINT32:
        return value
    constant = constant_value(value)
    return g.Cast(value, to=INT32) if constant is None else g.constant(constant.view(np.int32))


def _negative(g: GraphBuilder, value: ir.Value) -> ir.Value:
    """Return 1 where a value is below 0, else 0."""
    return g.Cast(g.Less(value, 0), to=INT32)


RULES: Rules = {
    "Add": (wrap,),
    "Cast": (cast,),
    "Div": (upper_half,),
    "GreaterOrEqual": (at_least,),
    "Mul": (wrap,),
}
