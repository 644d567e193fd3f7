"""The commands, one function each; `netc/cli.py` names them.

Imports of compiler and driver stay inside the functions, so that `netc --help` answers at once and compiling needs no
ONNX Runtime.
"""
