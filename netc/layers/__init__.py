"""The layers: one family a module, one class a layer. Importing this package registers them all."""

from netc.layers import (
    activation,
    arithmetic,
    crop,
    linear,
    loss,
    lrn,
    metric,
    normalization,
    pooling,
    regularization,
    reshape,
    scale,
    structure,
    targets,
)
from netc.layers.base import LAYERS

__all__ = [
    "LAYERS",
    "activation",
    "arithmetic",
    "crop",
    "linear",
    "loss",
    "lrn",
    "metric",
    "normalization",
    "pooling",
    "regularization",
    "reshape",
    "scale",
    "structure",
    "targets",
]
