"""netc: compiles a neural network declared in YAML into plain ONNX programs that train it."""

__version__ = "0.1.0"
