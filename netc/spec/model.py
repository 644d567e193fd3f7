"""The language: what a spec may say, section by section. Layers, fillers and solvers bring their own fields."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from netc.augment import AUGMENTATIONS as _AUGMENTATIONS  # noqa: F401 (importing registers every operation)
from netc.augment.base import AnyAugmentation
from netc.declared import Declared, OneOrMore, mistake, shown
from netc.layers import LAYERS as _LAYERS  # noqa: F401 (importing registers every layer)
from netc.layers.base import AnyLayer, Name, Side
from netc.solver.rules import AnySolver
from netc.spec.run import Run

# What a resume may change, beside the section `run`: it does not alter the step function.
RUN_KEYS = (
    ("data", "path"),
    ("data", "resident"),
    ("data", "test_views"),
    ("solver", "max_epochs"),
    ("solver", "max_iter"),
)

VERSION = 1
COMPUTED = "computed"  # in the place of statistics of the data: the host computes them from the training split

Size = Annotated[int, Field(gt=0)]
Statistic = float | list[float] | Literal["computed"]
# How a sample is shown to the network once more; corners are four, moved by an eighth of the sides along diagonals.
View = Literal["identity", "horizontal_flip", "vertical_flip", "both_flips", "corners"]
_MEAN: TypeAdapter[float] = TypeAdapter(float, config=ConfigDict(strict=True, allow_inf_nan=False))
_MEANS: TypeAdapter[list[float]] = TypeAdapter(list[float], config=ConfigDict(strict=True, allow_inf_nan=False))


def _version(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value == VERSION:
        return value
    raise mistake(f"netc: this netc reads version {VERSION} of the language, not {shown(value)}; write netc: {VERSION}")


def _statistic(value: Any, info: ValidationInfo) -> float | list[float] | str:
    """Take one number, a list of one a channel, or the word for what the training split says."""
    if value == COMPUTED:
        return COMPUTED
    if isinstance(value, str):
        raise mistake(f"{info.field_name}: expected a number, a list of one a channel, or computed, got {shown(value)}")
    return _MEANS.validate_python(value) if isinstance(value, list) else _MEAN.validate_python(value)


def _deviation(value: Any, info: ValidationInfo) -> float | list[float] | str:
    """Take a statistic that is above 0."""
    given = _statistic(value, info)
    for number in given if isinstance(given, list) else [given]:
        if isinstance(number, float) and number <= 0.0:
            raise mistake(f"{info.field_name}: must be greater than 0, got {number:g}")
    return given


class Input(Declared):
    """What the network is fed: one sample of numbers with a shape, or class labels.

    With `classes` alone a sample has one label; with a shape beside it, such as a plane, a label at every place.

    Example:
        inputs:
          image: {shape: [3, 8, 8]}
          label: {classes: 10}
    """

    shape: list[Size] | None = Field(None, min_length=1)
    """Shape of one sample without the batch, channels first: `[3, 32, 32]`."""
    classes: int | None = Field(None, gt=1)
    """Number of classes: the input is labels, whole numbers from 0 on."""

    @model_validator(mode="after")
    def _some_kind(self) -> Self:
        if self.shape is None and self.classes is None:
            raise mistake("an input needs a shape, such as {shape: [1, 28, 28]}, or {classes: 10} for labels")
        return self


def _input(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Take an input as it is; the loader's stand-in for a broken one is of no kind."""
    return value if isinstance(value, Input) else handler(value)


class Data(Declared):
    """Where samples come from and what happens to them before the first layer; further keys belong to the source.

    `resize` is done by the driver; `(value - mean) / std * scale` is part of every graph, so that exported models take
    raw values. With `computed`, `mean` or `std` are those of each channel over the training split (std divides by the
    number of values; a channel of one value has 1), which the driver takes before the first step and checkpoints keep.
    [Augmentation](augmentation.md) is part of training programs alone.

    Example: data: {source: digits, scale: 0.0625, batch_size: 64}
    """

    model_config = ConfigDict(extra="allow")

    source: str = Field(min_length=1)
    """Name of the data source, such as digits."""
    batch_size: int = Field(64, gt=0)
    """Samples of a training step."""
    resize: list[Size] | None = Field(None, min_length=2, max_length=2)
    """Height and width that images are brought to."""
    mean: Annotated[Statistic, PlainValidator(_statistic, json_schema_input_type=Statistic)] = 0.0
    """What is subtracted from every value: one number, or a list of one a channel."""
    std: Annotated[Statistic, PlainValidator(_deviation, json_schema_input_type=Statistic)] = 1.0
    """What that is divided by, in the same way."""
    scale: float = 1.0
    """What every value is multiplied by after that."""
    range: list[float] | None = Field(None, min_length=2, max_length=2)
    """Lowest and highest raw value, `[0, 255]`: some augmentations need it, and images beyond it are refused."""
    augment: list[AnyAugmentation] = []
    """What happens to each training batch, in order."""
    test_views: list[View] = Field([], max_length=16)
    """Views of a sample whose predictions `--tta` averages: `[identity, horizontal_flip]`."""
    resident: bool | None = None
    """Whether training data stay on the device, where each step gathers its batch; by default on CUDA, if they fit."""

    @field_validator("range")
    @classmethod
    def _ordered(cls, limits: list[float] | None) -> list[float] | None:
        if limits is not None and limits[0] >= limits[1]:
            raise mistake(f"range: the lowest value, {limits[0]:g}, is not below the highest, {limits[1]:g}")
        return limits


class InitFrom(Declared):
    """What training starts from: tensors of another file that have the names and shapes of this network's own.

    Parameters and running statistics are loaded, the memory of solvers never. A path alone stands for a mapping.

    Example: init_from: {path: runs/vgg16, checkpoint: best}
    """

    model_config = ConfigDict(title="init_from")

    path: str = Field(min_length=1)
    """A run folder, a compiled folder, a safetensors file such as a checkpoint, or an ONNX file."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint of a run folder."""
    rename: dict[str, str] = {}
    """Names there, and their names here: `{features.0.*: conv1.*}`. `*` is any text, the same one on both sides."""

    @model_validator(mode="after")
    def _same_stars(self) -> Self:
        for there, here in self.rename.items():
            if there.count("*") != here.count("*"):
                raise mistake(f'rename: "{there}" and "{here}" should have the same number of *')
        return self


def _init_from(value: Any) -> Any:
    """Let a path stand for a mapping."""
    if not isinstance(value, str | dict | InitFrom):
        raise mistake(f"init_from: expected a path such as runs/lenet, or a mapping with one, got {shown(value)}")
    return {"path": value} if isinstance(value, str) else value


Glob = Annotated[str, Field(min_length=1, max_length=1000)]
Globs = Annotated[list[Glob], OneOrMore]
Multiplier = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class TrainingPhase(Declared):
    """A part of training: what it gives replaces what the spec says, the rest holds as it stands there.

    Phases follow each other in one run, whose whole length `solver` sets: the last phase takes what the others leave.
    Each begins with the weights of the one before and an empty memory of its solver; rate policies and schedules count
    from the beginning of the phase, and `until` is a fraction of it. Evaluation measures the objective of the last one.

    Example:
        layers:
          - {name: conv1, type: Convolution, num_output: 16, kernel_size: 3}
          - {type: ReLU}
        phases:
          - {iterations: 5, freeze: "conv*"}
          - {solver: {base_lr: 0.001}}
    """

    model_config = ConfigDict(title="phase")

    epochs: Size | None = None
    """Length in passes over the training data; give this or iterations, and neither in the last phase."""
    iterations: Size | None = None
    """Length in steps."""
    freeze: Globs | None = None
    """What this phase leaves as it is."""
    lr_mult: dict[Glob, Multiplier] | None = None
    """Factors of the learning rate in this phase."""
    sides: bool = True
    """Whether companions take part; without them, they cost no gradients and their losses are only shown."""
    solver: dict[str, Any] = {}
    """Fields of the solver that differ: `{base_lr: 0.001, lr_policy: fixed}`, also its type."""


class NetSpec(Declared):
    """A network, its data and its training: one file.

    `fuse` is a head over the scores of all sides (Xie & Tu 2015), which inference keeps: declared like a side, its
    first layer reads what the first loss of each side reads, unless it names its bottoms.

    `reinit`, `freeze` and `lr_mult` take globs, which are compared with the names of layers (`res3/1/conv2`) and with
    the whole names of their tensors (`conv1.weight`): `*` is any text, slashes included, `?` one character, `[12]` one
    of several. A parameter that layers share belongs to the first of them. A glob that matches nothing is a mistake.
    """

    model_config = ConfigDict(title="the spec")

    netc: Annotated[int, PlainValidator(_version, json_schema_input_type=Literal[VERSION])]
    """Version of the language."""
    name: Name = Field(min_length=1)
    """Name of the network, and of its run folder."""
    inputs: dict[Name, Annotated[Input, WrapValidator(_input)]] = Field(min_length=1)
    """What the network is fed, by name."""
    data: Data
    """Where samples come from."""
    layers: list[AnyLayer] = Field(min_length=1)
    """The layers in the order of computation."""
    fuse: Side | None = None
    """A head over the scores of all sides."""
    solver: AnySolver
    """How the network is trained, and for how long."""
    init_from: Annotated[InitFrom, BeforeValidator(_init_from, json_schema_input_type=InitFrom | str)] | None = None
    """What training starts from, in place of the fillers."""
    reinit: Globs = []
    """What `init_from` leaves to the fillers, by the names of layers or of their parameters: `[ip2, "fc*"]`."""
    freeze: Globs = []
    """What training leaves as it is, in the same way; a BatchNorm chosen by its own name also keeps its statistics."""
    lr_mult: dict[Glob, Multiplier] = {}
    """Factors of the learning rate, in the same way: `{"conv*": 0.1}`; those that match multiply, also `param`'s."""
    phases: list[TrainingPhase] = []
    """Parts of training with settings of their own; without any, all of it is one."""
    run: Run = Run()
    """When training evaluates, what it keeps, and when it stops early."""

    def resolved(self) -> dict[str, Any]:
        """Return the spec as plain data with every default filled in."""
        return self.model_dump(mode="json", by_alias=True)

    def hash(self) -> str:
        """Return the SHA-256 of everything that determines the step function, in hexadecimal."""
        content = self.resolved()
        for section, key in RUN_KEYS:
            content[section].pop(key, None)
        del content["run"]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
