"""What every emitted graph obeys, so that stock runtimes execute it on CPU, on CUDA and in a browser.

One operator is left to the target `cpu` alone: BatchNormalization in training mode.
"""

import onnx_ir as ir

# Operators that no emitted graph may hold, each with the reason.
FORBIDDEN: dict[str, str] = {
    "If": "control flow keeps a step out of CUDA graphs",
    "Loop": "control flow keeps a step out of CUDA graphs",
    "Scan": "control flow keeps a step out of CUDA graphs",
    "Dropout": "its random state cannot be read, set or resumed",
    "RandomNormal": "its random state cannot be read, set or resumed",
    "RandomNormalLike": "its random state cannot be read, set or resumed",
    "RandomUniform": "its random state cannot be read, set or resumed",
    "RandomUniformLike": "its random state cannot be read, set or resumed",
    "Bernoulli": "its random state cannot be read, set or resumed",
    "Multinomial": "its random state cannot be read, set or resumed",
    "BitShift": "no CUDA kernel",
    "BitwiseAnd": "no CUDA kernel",
    "BitwiseOr": "no CUDA kernel",
    "BitwiseXor": "no CUDA kernel",
    "BitwiseNot": "no CUDA kernel",
    "MaxUnpool": "no CUDA kernel",
    "Col2Im": "no CUDA kernel",
    "Celu": "no CUDA kernel",
    "Tan": "no CUDA kernel",
    "LpPool": "no CUDA kernel",
    "MeanVarianceNormalization": "no CUDA kernel",
    "SequenceConstruct": "sequences have no static shape",
    "SplitToSequence": "sequences have no static shape",
}


def broken_rule(node: ir.Node, static: bool, target: str) -> str | None:
    """Return why an emitted graph may not hold `node`, or None.

    Args:
        node: a node of the graph.
        static: whether all shapes must be static, as in `train.onnx`.
        target: the engine that the lowerings were chosen for.
    """
    if node.domain not in ("", "ai.onnx"):
        return f"domain {node.domain} is not the standard one"
    if node.op_type in FORBIDDEN:
        return FORBIDDEN[node.op_type]
    training = node.attributes.get("training_mode")
    trains = node.op_type == "BatchNormalization" and training is not None and training.as_int() == 1
    if trains and target != "cpu":
        return "only CPUs run BatchNormalization in training mode; it must be expanded"
    if trains and not all(_is_private(value) for value in node.inputs[3:5]):
        return "ONNX Runtime overwrites the running values of BatchNormalization, which others read too"
    if static:
        if node.op_type in ("Shape", "Size", "NonZero"):
            return "a step has static shapes only"
        for output in node.outputs:
            if output.shape is None or not output.shape.is_static():
                return f"the shape of {output.name} is not static: {output.shape}"
    return None


def _is_private(value: ir.Value | None) -> bool:
    """Whether a value is computed for one reader alone."""
    return value is not None and value.producer() is not None and len(value.uses()) == 1 and not value.is_graph_output()
