"""The layers: one family a module, one class a layer. Importing this package registers them all."""

from netc.layers import activation, linear, loss, metric, normalization, pooling, regularization, structure
from netc.layers.base import LAYERS

__all__ = [
    "LAYERS",
    "activation",
    "linear",
    "loss",
    "metric",
    "normalization",
    "pooling",
    "regularization",
    "structure",
]
