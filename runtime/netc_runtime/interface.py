"""What goes into a program and comes out: names, types, shapes and roles, as the manifest and the file itself say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netc_runtime.arrays import SAFETENSORS_DTYPES
from netc_runtime.errors import DamagedFileError
from netc_runtime.jsonfields import MalformedError, field, integers, objects, optional


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the state or one input or output of a graph.

    `shape` holds integers, or the string "N" for a batch axis of any size. `feeds` is the name of the state or
    input that takes an output's value, `field` the array of a data source, `weight` the output with the weight
    of a mean, `activation` what a loss would still apply ("logits" or "sigmoid") or None, `label` the label input
    whose classes an output scores or None, `ignored` the label values that are no class and do not count. An output
    of role monitor is a `quantity` of a `tensor`, a top or a parameter, of a `layer`.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    role: str
    feeds: str | None = None
    field: str | None = None
    classes: int | None = None
    weight: str | None = None
    activation: str | None = None
    label: str | None = None
    layer: str | None = None
    tensor: str | None = None
    quantity: str | None = None
    ignored: tuple[int, ...] = ()

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "TensorSpec":
        """Read one entry of the manifest; raises MalformedError."""
        name, dtype = field(entry, "name", str), field(entry, "dtype", str)
        if dtype not in SAFETENSORS_DTYPES:
            raise MalformedError(f'the tensor "{name}" has the dtype "{dtype}", which this driver does not know')
        shape = field(entry, "shape", list)
        for axis in shape:
            if not isinstance(axis, int | str) or isinstance(axis, bool) or (isinstance(axis, int) and axis < 0):
                raise MalformedError(f'the tensor "{name}" has the shape {shape}')
        return cls(
            name=name,
            dtype=dtype,
            shape=tuple(shape),
            role=field(entry, "role", str),
            feeds=optional(entry, "feeds", str),
            field=optional(entry, "field", str),
            classes=optional(entry, "classes", int),
            weight=optional(entry, "weight", str),
            activation=optional(entry, "activation", str),
            label=optional(entry, "label", str),
            layer=optional(entry, "layer", str),
            tensor=optional(entry, "tensor", str),
            quantity=optional(entry, "quantity", str),
            ignored=integers(entry, "ignored"),
        )

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape of a tensor without a batch axis of any size; raises DamagedFileError if it has one."""
        sizes = tuple(axis for axis in self.shape if isinstance(axis, int))
        if len(sizes) != len(self.shape):
            raise DamagedFileError(f'the tensor "{self.name}" should have a fixed shape, not {list(self.shape)}')
        return sizes

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample: all axes but the first."""
        return tuple(axis for axis in self.shape[1:] if isinstance(axis, int))


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of one program, in its order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "Interface":
        """Read `inputs` and `outputs`; raises MalformedError."""
        inputs = tuple(map(TensorSpec.parse, objects(entry, "inputs")))
        return cls(inputs, tuple(map(TensorSpec.parse, objects(entry, "outputs"))))

    def inputs_of(self, role: str) -> tuple[TensorSpec, ...]:
        """Return the inputs of one role: state, batch or parameter."""
        return tuple(spec for spec in self.inputs if spec.role == role)

    @property
    def fed(self) -> frozenset[str]:
        """The names that the outputs give new values to."""
        return frozenset(spec.feeds for spec in self.outputs if spec.feeds is not None)

    def outputs_of(self, role: str) -> tuple[TensorSpec, ...]:
        """Return the outputs of one role: next, metric, monitor, weight, count, statistic, output, parameter."""
        return tuple(spec for spec in self.outputs if spec.role == role)
