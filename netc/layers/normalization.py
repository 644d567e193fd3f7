"""Normalization layers."""

import math
from typing import ClassVar, Literal

import onnx_ir as ir
from pydantic import Field

from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context
from netc.layers.fillers import Constant


@LAYERS.add
class BatchNorm(Layer):
    """Normalise each channel over the batch, then scale and shift it (Ioffe & Szegedy, 2015, Algorithm 1).

    Input [N, C, ...], output of the same shape. Parameters: weight [C] (gamma, first 1), bias [C] (beta, first 0).
    While training, mean and biased variance of the batch are used, and running values follow them:
    running = f * running + (1 - f) * batch with f = `moving_average_fraction` and the unbiased variance. Testing and
    inference use the running values; export folds them into the neighbouring weights.
    """

    type: Literal["BatchNorm"] = "BatchNorm"
    eps: float = Field(1e-5, gt=0.0, allow_inf_nan=False)
    moving_average_fraction: float = Field(0.9, ge=0.0, lt=1.0)

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        shape = shape_of(x[0])
        if len(shape) < 2:
            raise LayerError(f"BatchNorm needs channels, got {sample(x[0])} a sample", "bottom")
        channels = int(shape[1])
        weight = net.parameter("weight", [channels], Constant(value=1.0))
        bias = net.parameter("bias", [channels], Constant())
        mean = net.statistic("running_mean", [channels], 0.0)
        var = net.statistic("running_var", [channels], 1.0)
        if net.phase == "test":
            return net.g.BatchNormalization(x[0], weight, bias, mean, var, epsilon=self.eps)
        m = math.prod(int(n) for n in shape) // channels
        if m < 2:
            raise LayerError("BatchNorm needs at least 2 values a channel in a batch; raise data.batch_size")
        # Momentum 0 makes the second and third output the statistics of this batch.
        y, batch_mean, batch_var = net.g.ops(
            "BatchNormalization",
            x[0],
            weight,
            bias,
            mean,
            var,
            num_outputs=3,
            epsilon=self.eps,
            training_mode=1,
            momentum=0.0,
        )
        f = self.moving_average_fraction
        with net.g.arithmetic():
            net.update(mean, mean * f + batch_mean * (1.0 - f))
            net.update(var, var * f + batch_var * ((1.0 - f) * m / (m - 1)))
        return y
