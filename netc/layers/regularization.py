"""Layers that disturb training on purpose."""

from typing import ClassVar, Literal

import onnx_ir as ir
from pydantic import Field

from netc.graph import shape_of
from netc.layers.base import LAYERS, Layer, LayerError, sample
from netc.layers.context import Context


@LAYERS.add
class Dropout(Layer):
    """Drop units with probability `dropout_ratio` while training; kept units are scaled by 1 / (1 - dropout_ratio).

    At test time the identity (inverted dropout; Srivastava et al., 2014, section 10). With `scale_at: test` kept units
    are not scaled and tests multiply by 1 - dropout_ratio instead (the paper's section 4, and Caffe before 2014). With
    `whole_channel` all of a channel is dropped together (Tompson et al., 2015). Masks are a pure function of seed,
    step and the layer's name, so that a resumed run drops the same units. `netc predict --mc-dropout` drops as training
    does (Gal & Ghahramani, 2016).

    Example: {type: Dropout, dropout_ratio: 0.25}
    """

    type: Literal["Dropout"] = "Dropout"
    dropout_ratio: float = Field(0.5, ge=0.0, lt=1.0)
    """Probability that a unit is dropped."""
    scale_at: Literal["train", "test"] = "train"
    """Phase that makes up for dropped units."""
    whole_channel: bool = False
    """Whether the units of a channel are dropped together."""

    passes_rectifier: ClassVar[bool] = True
    drops: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        if self.whole_channel and len(shape_of(x[0])) < 3:
            raise LayerError(
                f"whole_channel needs axes behind the channels, got {sample(x[0])} a sample; remove it", "whole_channel"
            )
        kept = 1.0 - self.dropout_ratio
        if self.dropout_ratio == 0.0 or (not net.drops and self.scale_at == "train"):
            return x[0]
        with net.g.arithmetic():
            if not net.drops:
                return x[0] * kept
            mask = net.keep(x[0], self.dropout_ratio, 2 if self.whole_channel else None)
            return x[0] * (mask if self.scale_at == "test" else mask * (1.0 / kept))


@LAYERS.add
class StochasticDepth(Layer):
    """Drop a residual branch of a sample with probability `drop_ratio`, and scale a kept one by 1 / (1 - drop_ratio).

    Stands at the end of the branch, before the Eltwise that adds it. At test time the identity (Huang et al., 2016,
    with the scale at training). Decisions are a pure function of seed, step and the layer's name.
    `netc predict --mc-dropout` drops as training does.

    Example:
        - {name: trunk, type: Convolution, num_output: 8, kernel_size: 3, pad: 1}
        - {name: branch, type: Convolution, num_output: 8, kernel_size: 3, pad: 1}
        - {name: dropped, type: StochasticDepth, drop_ratio: 0.2}
        - {name: sum, type: Eltwise, bottom: [trunk, dropped]}
    """

    type: Literal["StochasticDepth"] = "StochasticDepth"
    drop_ratio: float = Field(0.5, ge=0.0, lt=1.0)
    """Probability that a sample's branch is dropped."""

    passes_rectifier: ClassVar[bool] = True
    drops: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        if not net.drops or self.drop_ratio == 0.0:
            return x[0]
        with net.g.arithmetic():
            return x[0] * (net.keep(x[0], self.drop_ratio, 1) * (1.0 / (1.0 - self.drop_ratio)))


@LAYERS.add
class GaussianNoise(Layer):
    """x + std n while training, with n from N(0, 1) for each element; at test time the identity (Bishop, 1995).

    Noise is a pure function of seed, step and the layer's name. It stands for noise in the data and not for what is
    unknown of the weights, so that `netc predict --mc-dropout` leaves it out.

    Example: {type: GaussianNoise, std: 0.1}
    """

    type: Literal["GaussianNoise"] = "GaussianNoise"
    std: float = Field(gt=0.0, allow_inf_nan=False)
    """Standard deviation of the noise."""

    passes_rectifier: ClassVar[bool] = True

    def lower(self, net: Context, *x: ir.Value) -> ir.Value:  # noqa: D102
        if net.phase == "test":
            return x[0]
        with net.g.arithmetic():
            return x[0] + net.normal(x[0]) * self.std
