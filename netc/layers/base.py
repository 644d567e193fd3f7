"""What a layer is: a mapping of the language whose class also writes its forward computation.

A layer is one class in this package: typed fields (the YAML schema), a docstring (the documentation) and `lower`
(the forward pass in ONNX primitives). Gradients follow from the primitives; a layer writes none.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import onnx_ir as ir
from pydantic import ConfigDict, Field, model_validator

from netc.declared import Declared, Family, Names, mistake
from netc.layers.schedules import AnySchedule, ConstantSchedule

if TYPE_CHECKING:
    from netc.layers.context import Context

# Names become parts of tensor and node names; "." separates a layer from its parameters there.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_\-]*(/[A-Za-z0-9_\-]+)*$", max_length=200)]
Phase = Literal["train", "test"]

# Runtimes count the elements of a tensor in 32 bits, and one ONNX file holds at most 2 GiB.
MAX_ELEMENTS = 2**31 - 1
MAX_PARAMETERS = (2**31 - 2**20) // 4
# Numbers of one constant that a layer writes into its programs: 64 MiB of float32.
MAX_CONSTANT = 2**24


class LayerError(Exception):
    """A layer that cannot be lowered as declared: a sentence, and the field it is about (None: the layer)."""

    def __init__(self, message: str, field: str | None = None) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True)
class Mean:
    """What a loss or metric returns: the mean over a batch, and the weight of that mean.

    Both are scalars. sum(value * weight) / sum(weight) over batches is the mean over a whole split, exactly.
    """

    value: ir.Value
    weight: ir.Value


@dataclass(frozen=True)
class Counts:
    """What a counting metric returns: the confusion matrix [C, C] of a batch, int64, rows the true class.

    Matrices add up over batches, and what a host derives from their sum is exact for a whole split.
    """

    matrix: ir.Value


class Include(Declared):
    """When a layer takes part; without it, always.

    Example: - {type: TanH, include: {phase: train}}
    """

    phase: Phase
    """The only phase in which the layer takes part."""


class ParamSpec(Declared):
    """What holds for one parameter; the i-th entry is for the layer's i-th parameter, weight before bias.

    Parameters with one `name` are one tensor: the first layer that has it fills it, its gradients add up. The name is
    as it stands also inside a block, so that all uses of that share it. The penalties `l1 * sum |w| + l2 * sum w^2` are
    part of the objective; weight decay, in contrast, is the solver's.

    Example: - {type: InnerProduct, num_output: 32, param: [{lr_mult: 1.0}, {lr_mult: 2.0, decay_mult: 0.0}]}
    """

    model_config = ConfigDict(title="param")

    name: Name | None = None
    """Name under which layers share the parameter."""
    lr_mult: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    """Factor of the learning rate; 0 keeps the parameter as it is."""
    decay_mult: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    """Factor of the solver's weight_decay."""
    l1: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """Factor of the sum of magnitudes in the objective."""
    l2: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """Factor of the sum of squares in the objective."""


class Layer(Declared):
    """Fields that every layer has.

    A `loss_weight` above 0 makes any layer part of the objective: it adds loss_weight times the sum of the values of
    its tops, averaged over the samples of the batch.
    """

    type: str
    name: Name = ""
    """Name of the layer and of its top; without it the type and a number, such as relu1."""
    bottom: Names = []
    """What the layer reads: names of tops or inputs. Without it, the layer above."""
    include: Include | None = None
    """The phase in which the layer takes part; without it, both."""
    param: list[ParamSpec] = []
    """Multipliers and penalties of the parameters, one entry each: weight before bias."""
    loss_weight: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    """Factor of the sum of the top's values in the objective; 0: they are no part of it."""
    side: "Side | None" = None
    """A companion objective that branches off behind this layer."""
    checkpoint: Names = []
    """Name of a part of the network that the backward pass computes again; of several, the later ones are inside."""

    # Numbers of bottoms that the layer takes; None: any number from the minimum on.
    min_bottoms: ClassVar[int] = 1
    max_bottoms: ClassVar[int | None] = 1
    # Whether the last bottom is the labels, taken from the input declared with `classes` unless given.
    takes_labels: ClassVar[bool] = False
    # Whether class labels may stand where it takes numbers.
    reads_labels: ClassVar[bool] = False
    # Whether what it learns scales and shifts values one by one, as after a normalization, and is no matrix of weights.
    learns_scales: ClassVar[bool] = False
    # How the default weight filler looks ahead: a rectifier behind a layer asks for msra.
    rectifies: ClassVar[bool] = False
    passes_rectifier: ClassVar[bool] = False
    # Whether it drops at random: while training, and when predictions are sampled.
    drops: ClassVar[bool] = False

    @property
    def is_loss(self) -> bool:
        """Whether training minimises something of the layer."""
        return self.loss_weight > 0.0

    @property
    def has_dead_zone(self) -> bool:
        """Whether its top is 0, and lets no gradient through, on a whole range of inputs, so that units can be dead."""
        return False

    @property
    def ignored(self) -> int | None:
        """The label that counts nothing for a layer that takes labels, if there is one."""
        return getattr(self, "ignore_label", None)

    @property
    def tops(self) -> Sequence[str]:
        """Names of the tops: one, called like the layer, unless a class says otherwise."""
        return (self.name,)

    @abstractmethod
    def lower(self, net: "Context", *x: ir.Value) -> "ir.Value | Mean | Counts | Sequence[ir.Value]":
        """Append the forward computation of `x`, the bottoms, and return the top, or one value for each of `tops`.

        Losses and metrics return what they measure.

        Raises:
            LayerError: the fields do not fit the bottoms.
        """


LAYERS: Family[Layer] = Family("layer")
AnyLayer = Annotated[Layer, LAYERS]


class Side(Declared):
    """A companion objective (deep supervision): layers that branch off here while training and end in a loss.

    Below `threshold` a loss of the side no longer counts: the total has loss_weight * max(0, loss - threshold). Weights
    of sides inside sides multiply; the threshold is that of the innermost one alone.

    Example:
        - name: conv1
          type: Convolution
          num_output: 8
          kernel_size: 3
          side:
            loss_weight: 0.3
            layers:
              - {name: scores1, type: InnerProduct, num_output: 10}
              - {name: l1, type: SoftmaxWithLoss, bottom: [scores1, label]}
    """

    loss_weight: AnySchedule = ConstantSchedule(start=1.0)
    """Factor of the side's losses: a number, or a schedule over the run."""
    threshold: float | None = Field(None, ge=0.0, allow_inf_nan=False)
    """Loss below which the side no longer counts."""
    layers: list[AnyLayer] = Field(min_length=1)
    """The layers of the branch, the first of which reads the top it branches off from; the last is a loss."""


Layer.model_rebuild()


class Loss(Layer):
    """A layer whose mean is minimised, times `loss_weight`."""

    min_bottoms: ClassVar[int] = 2
    max_bottoms: ClassVar[int | None] = 2
    # What the loss applies to its first bottom, and inference therefore leaves to the user.
    activation: ClassVar[str | None] = None

    loss_weight: float = Field(1.0, ge=0.0, allow_inf_nan=False)
    """Factor of the loss in the objective; 0: it is only reported."""

    @property
    def is_loss(self) -> bool:
        """Always: with the weight 0 a loss is monitored only."""
        return True


class Metric(Layer):
    """A layer whose mean, or whose counts, are reported and never minimised."""

    min_bottoms: ClassVar[int] = 2
    max_bottoms: ClassVar[int | None] = 2
    kind: ClassVar[str]
    # Counts are made of a whole split, so that there are none of a single training batch.
    counts: ClassVar[bool] = False

    @model_validator(mode="after")
    def _never_minimised(self) -> Self:
        if self.loss_weight:
            raise mistake(f"loss_weight: {self.type} is a metric, which is never minimised; use a loss for that")
        return self


def one_per_axis(values: Sequence[int], axes: int, field: str, minimum: int) -> list[int]:
    """Expand `kernel_size: 5` to one number a spatial axis.

    Raises:
        LayerError: neither one number nor one an axis was given, or one is below the minimum.
    """
    if len(values) not in (1, axes):
        raise LayerError(f"{field}: needs 1 or {axes} numbers for {axes} spatial axes, got {len(values)}", field)
    if min(values) < minimum:
        raise LayerError(f"{field}: must be at least {minimum}, got {min(values)}", field)
    if max(values) > MAX_ELEMENTS:
        raise LayerError(f"{field}: must be at most {MAX_ELEMENTS}, got {max(values)}", field)
    return list(values) * axes if len(values) == 1 else list(values)


def elements(shape: Iterable[int | str]) -> int:
    """Return the number of elements of a shape; a symbolic axis counts as one."""
    return math.prod(n for n in shape if isinstance(n, int))


def spatial(x: ir.Value, layer: Layer) -> list[int]:
    """Return the spatial size of x [N, C, ...].

    Raises:
        LayerError: x has no spatial axis, or more than the three that runtimes compute with.
    """
    shape: list[Any] = list(x.shape or ())
    if not 3 <= len(shape) <= 5:
        raise LayerError(
            f"{layer.type} needs channels and one to three spatial axes, got {sample(x)} a sample", "bottom"
        )
    return shape[2:]


def sample(x: ir.Value) -> str:
    """Return the shape of one sample as `20x24x24`, for messages."""
    return "x".join(str(n) for n in list(x.shape or ())[1:]) or "a scalar"
