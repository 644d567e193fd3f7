"""Numbers of 64 bits in 32: what a step computes in float64, it computes in float32.

Rates and schedules are scalar functions of the number of the step, and float64 where engines have it. In float32
numbers of steps up to 2^24 are whole, and each operation rounds to 6e-8. Powers of a constant would round it t times:

    gamma^t = exp(t * ln gamma)         with ln gamma in float64, rounded once

What is left is where numbers cancel: 6e-5 in the first corrections of Adam, 1 - beta^t, and near the end of poly,
cosine and one_cycle, which are exact to 6e-8 of their first value, not of what is left of it.

Reason: WebGPU has no float64, and the build of onnxruntime-web that has WebGPU has no float64 on its WebAssembly
provider either, so that it refuses the whole step.
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from netc.graph import GraphBuilder, Site, constant_value
from netc.rewrite.replay import Inputs, Rules

FLOAT, DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE


def narrow(g: GraphBuilder, site: Site, inputs: Inputs) -> Sequence[ir.Value] | None:
    """Rewrite any node that reads or gives float64; a graph that is float64 throughout, as tests build, stays."""
    values = (*site.node.inputs, *site.node.outputs)
    if g.dtype == DOUBLE or not any(value is not None and value.dtype == DOUBLE for value in values):
        return None
    given = [None if x is None else _narrowed(g, x) for x in inputs]
    if site.node.op_type == "Cast":
        to = ir.DataType(site.attribute("to"))
        to = FLOAT if to == DOUBLE else to
        return (given[0] if given[0] is not None and given[0].dtype == to else g.Cast(given[0], to=to),)
    base = constant_value(site.x[0]) if site.node.op_type == "Pow" else None
    if base is not None and (base > 0).all() and given[1] is not None:
        return (g.Exp(given[1] * g.constant(np.log(base).astype(np.float32))),)
    if site.node.op_type == "ConstantOfShape":
        filled = ir.tensor(site.node.attributes["value"].as_tensor().numpy().astype(np.float32))
        return (g.ConstantOfShape(given[0], value=filled),)
    return g.ops(site.node.op_type, *given, num_outputs=len(site.node.outputs), **site.attributes())


def _narrowed(g: GraphBuilder, x: ir.Value) -> ir.Value:
    """Return a value of the new graph in float32: constants alone are float64 there yet."""
    constant = constant_value(x)
    if constant is None or x.dtype != DOUBLE:
        return x
    return g.constant(constant.astype(np.float32))


RULES: Rules = {schema.name: (narrow,) for schema in onnx.defs.get_all_schemas()}
