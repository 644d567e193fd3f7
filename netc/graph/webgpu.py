"""What ONNX Runtime can execute on WebGPU, as a table that the rewrites for browsers and their check share.

These are the operators of the standard domain in the list that onnxruntime-web ships (docs/webgpu-operators.md of
version 1.30), of which the registry of kernels in core/providers/webgpu of the native provider has all that netc uses.
Both take the version of each operator that opset 18 means. A node of any other operator runs on the WebAssembly
provider, and what it reads and writes is copied from and to the GPU in the middle of a step.

Goals: operators, and how many tensors one node may touch. Non-goals: types. WebGPU has no 64-bit integers, so that the
number of the step and what is divided from it stay on the WebAssembly provider by design: scalars, few in a step.
"""

import onnx_ir as ir

_LISTED = """
Abs Acos Acosh Add ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Clip Concat Conv
ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor
Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample
HardSigmoid HardSwish InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log MatMul MaxPool Mul
Neg Not Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ScatterND Shape Sigmoid Sin Sinh Slice Softmax Split Sqrt
Squeeze Sub Tan Tanh ThresholdedRelu Tile Transpose Unsqueeze Where
"""
KERNELS = frozenset(_LISTED.split())
"""Operators with a kernel."""

MAX_TENSORS = 8
"""How many tensors one node may read and write: the storage buffers that every WebGPU device binds to a shader.

Kernels bind each input and output as one (maxStorageBuffersPerShaderStage of the WebGPU standard).
"""

MAX_BYTES = 128 << 20
"""Bytes of the largest tensor: what every device binds at least (maxStorageBufferBindingSize)."""


def missing_kernel(node: ir.Node) -> str | None:
    """Return what of a node WebGPU has no kernel for, such as `TopK` or `MaxPool with Indices`; None if it has one."""
    if node.op_type not in KERNELS:
        return node.op_type
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        return "MaxPool with Indices"
    if node.op_type == "Slice" and node.outputs[0].dtype == ir.DataType.UINT32:
        return "Slice of uint32"
    tensors = len(node.outputs) + len([x for x in node.inputs if x is not None])
    return f"{node.op_type} of {tensors} tensors" if tensors > MAX_TENSORS else None
