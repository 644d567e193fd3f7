"""The driver of netc: trains, evaluates, exports and runs compiled artifacts on stock ONNX Runtime.

It knows nothing of the compiler: the artifact folder (docs/artifact.md) is all that they share. ONNX Runtime is
imported only when a program has to run, so that `netc_runtime.data` and `netc_runtime.artifact` work without it.
"""
