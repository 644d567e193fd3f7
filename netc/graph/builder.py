"""Append nodes to an onnx-ir graph; every value is typed by the ONNX standard's own inference.

Grammar of the graph: a value is a graph input, an initializer or an output of one node; a node applies one
operator of the standard domain to earlier values; the list of nodes is in topological order (SSA).

`g.Conv(x, w, pads=[1, 1, 1, 1])` appends a node and returns its first output. Within `g.arithmetic()` values
also take `a * b + 2.0`. Python numbers, lists and numpy arrays stand for constants. Every node carries its
origin, the layer and the place in the spec that asked for it, and is named after it.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import onnx
import onnx_ir as ir

from netc.graph.inference import IR_VERSION, OPSET, infer

__all__ = [
    "IR_VERSION",
    "OPSET",
    "GraphBuilder",
    "Operand",
    "Origin",
    "Part",
    "Site",
    "constant_value",
    "origin_of",
    "shape_of",
]

Operand = ir.Value | np.ndarray | float | int | Sequence[int] | None
MAX_SHOWN = 8  # elements that the name of a constant shows; of more it shows the first and the last ones


# What a node can be part of; nodes are named LAYER/PART/OPERATOR.
Part = Literal["forward", "recompute", "grad", "update", "preprocess", "weight", "keys", "copy", "monitor", "packing"]


@dataclass(frozen=True)
class Origin:
    """Who asked for a node: the layer, the part of the step it belongs to, and `file:line` of the spec.

    `rewrite` is the file in netc/rewrite whose rule put the node where it is, if one did; `fold` the reason why it is
    there, where it stands for a normalization that could not be folded.
    """

    layer: str
    part: Part = "forward"
    place: str = ""
    rewrite: str = ""
    fold: str = ""

    def metadata(self) -> dict[str, str]:
        """Return what a node carries of it; `origin_of` reads it."""
        further = {"netc.spec": self.place, "netc.rewrite": self.rewrite, "netc.fold": self.fold}
        return {
            "netc.layer": self.layer,
            "netc.part": self.part,
            **{key: value for key, value in further.items() if value},
        }


def origin_of(node: ir.Node) -> Origin:
    """Return the origin that a node carries."""
    metadata = node.metadata_props
    part = cast(Part, metadata.get("netc.part", "forward"))
    place, rewrite, fold = (metadata.get(key, "") for key in ("netc.spec", "netc.rewrite", "netc.fold"))
    return Origin(metadata.get("netc.layer", "netc"), part, place, rewrite, fold)


@dataclass(frozen=True)
class Site:
    """One application of an operator, as differentiation rules and rewrites see it.

    `index` is the input that a differentiation rule is asked about; only variadic operators look at it.
    """

    node: ir.Node
    index: int = 0

    @property
    def x(self) -> tuple[ir.Value, ...]:
        """Inputs; asking for an omitted optional one is an error, see `given`."""
        return tuple(value for value in self.node.inputs if value is not None)

    @property
    def y(self) -> ir.Value:
        """First output."""
        return self.node.outputs[0]

    def given(self, index: int) -> ir.Value | None:
        """Return the input at `index` or None where it was omitted."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attribute(self, name: str) -> Any:
        """Return an attribute's value, the standard's default where it is not set, else None."""
        given = self.node.attributes.get(name)
        if given is not None:
            return list(given.value) if isinstance(given.value, tuple) else given.value
        default = onnx.defs.get_schema(self.node.op_type, OPSET).attributes[name].default_value
        return onnx.helper.get_attribute_value(default) if default.name else None

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that are set, as keyword arguments for the builder."""
        return dict(self.node.attributes)


def shape_of(value: ir.Value) -> list[int | str]:
    """Return the shape of a value: integers, and strings for symbolic axes."""
    if value.shape is None:
        raise AssertionError(f"value {value.name} has no shape")
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]


def constant_value(value: ir.Value) -> np.ndarray | None:
    """Return the array behind a constant, None for anything computed or fed."""
    return value.const_value.numpy() if value.const_value is not None else None


class GraphBuilder:
    """A graph under construction.

    Args:
        name: name of the ONNX graph.
        dtype: the floating-point type of parameters and activations; tests build in DOUBLE.
    """

    def __init__(self, name: str, dtype: ir.DataType = ir.DataType.FLOAT) -> None:
        self.dtype = dtype
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=name)
        self._constants: dict[tuple[np.dtype, tuple[int, ...], bytes], ir.Value] = {}
        self._names: dict[str, int] = {}
        self._origin = Origin("netc")
        self._next: ir.Node | None = None  # the node that new ones stand before; None: at the end

    # -- values ------------------------------------------------------------------------------------------

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Declare a graph input; a string in `shape` is a symbolic axis."""
        value = ir.Value(name=self._unique(name), shape=ir.Shape(shape), type=ir.TensorType(dtype))
        if value.name != name:
            raise AssertionError(f"graph input {name} is declared twice or collides with a node's output")
        self.graph.inputs.append(value)
        return value

    def output(self, name: str, value: ir.Value) -> ir.Value:
        """Declare a graph output called `name`; inputs, constants and values already given out are copied."""
        if value.is_graph_input() or value.is_initializer() or value.is_graph_output():
            value = self.op("Identity", value)
        value.name = self._unique(name)
        if value.name != name:
            raise AssertionError(f"graph output {name} collides with another name")
        self.graph.outputs.append(value)
        return value

    def constant(self, value: Any, dtype: ir.DataType | None = None) -> ir.Value:
        """Return an initializer; equal constants are one value, named after its content."""
        array = np.asarray(value)
        if dtype is not None:
            array = array.astype(dtype.numpy())
        elif not isinstance(value, np.ndarray | np.generic):
            kind = array.dtype.kind
            array = array.astype(self.dtype.numpy() if kind == "f" else bool if kind == "b" else np.int64)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._constants:
            shown = _shown_small(*key) if array.size <= MAX_SHOWN else _shown(array)
            name = self._unique(f"const.{array.dtype}.{shown}")
            tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
            constant = ir.val(name, const_value=tensor)
            self.graph.register_initializer(constant)
            self._constants[key] = constant
        return self._constants[key]

    # -- nodes -------------------------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: Operand, **attributes: Any) -> ir.Value:
        """Append a node with one output and return that."""
        return self.ops(op_type, *inputs, num_outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: Operand, num_outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """Append a node with several outputs and return them.

        Attributes that are None are left out. Raises AssertionError when the standard's inference refuses
        the node or leaves an output without type or rank: layers check the user's values before they lower.
        """
        given = [_attribute(name, value) for name, value in attributes.items() if value is not None]
        return self._place(op_type, self._operands(inputs), given, num_outputs, self._origin.metadata())

    def copy(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], origin: Origin | None = None
    ) -> Sequence[ir.Value]:
        """Append a node like one of another graph that reads other values, and return its outputs, typed anew.

        It has the origin of that node unless another is given.
        """
        metadata = dict(node.metadata_props) if origin is None else origin.metadata()
        return self._place(node.op_type, inputs, node.attributes.data.values(), len(node.outputs), metadata)

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.op(op_type, *inputs, **attributes)

    def widen(self, node: ir.Node, num_outputs: int) -> Sequence[ir.Value]:
        """Ask an existing node for more of its outputs, such as MaxPool for its Indices."""
        if len(node.outputs) < num_outputs:
            known = len(node.outputs)
            node.resize_outputs(num_outputs)
            for index in range(known, num_outputs):
                node.outputs[index].name = f"{node.name}.{index}"
            self._infer(node)
        return node.outputs

    def feed(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> None:
        """Let an existing node read other values; the types of its outputs follow."""
        for index, x in enumerate(inputs):
            node.replace_input_with(index, x)
        self._infer(node)

    # -- context -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def origin(self, origin: Origin) -> Iterator[None]:
        """Within this context nodes are named after `origin`."""
        previous, self._origin = self._origin, origin
        try:
            yield
        finally:
            self._origin = previous

    @contextlib.contextmanager
    def before(self, node: ir.Node) -> Iterator[None]:
        """Within this context new nodes stand before `node`."""
        previous, self._next = self._next, node
        try:
            yield
        finally:
            self._next = previous

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Within this context the operators + - * / and unary - of values append nodes here."""
        previous = ir.set_value_magic_handler(_Arithmetic(self))
        try:
            yield
        finally:
            ir.set_value_magic_handler(previous)

    # -- internals ---------------------------------------------------------------------------------------

    def _place(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Collection[ir.Attr],
        num_outputs: int,
        metadata: dict[str, str],
    ) -> Sequence[ir.Value]:
        node = ir.Node("", op_type, inputs, attributes, num_outputs=num_outputs, metadata_props=metadata)
        node.name = self._unique(f"{metadata['netc.layer']}/{metadata['netc.part']}/{op_type}")
        for index, output in enumerate(node.outputs):
            output.name = node.name if index == 0 else f"{node.name}.{index}"
        self._infer(node)
        if self._next is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self._next, node)
        return node.outputs

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if count == 0 else self._unique(f"{name}_{count}")

    def _operands(self, inputs: Sequence[Operand]) -> list[ir.Value | None]:
        """Turn Python numbers into constants of the type of the first value beside them."""
        beside = next((x.dtype for x in inputs if isinstance(x, ir.Value)), None)
        values: list[ir.Value | None] = []
        for x in inputs:
            if x is None or isinstance(x, ir.Value):
                values.append(x)
            elif isinstance(x, int | float) and not isinstance(x, bool):
                if isinstance(x, float) and beside is not None and not beside.is_floating_point():
                    raise AssertionError(f"{x} stands beside a value of type {beside}")
                values.append(self.constant(x, beside))
            else:
                values.append(self.constant(x))
        return values

    def _infer(self, node: ir.Node) -> None:
        try:
            inferred = infer(node)
        except Exception as error:
            shapes = ", ".join(f"{v.name}: {v.dtype}{shape_of(v)}" for v in node.inputs if v is not None)
            raise AssertionError(f"{node.name} is not a valid {node.op_type} of {shapes}: {error}") from error
        for output, (kind, shape) in zip(node.outputs, inferred, strict=True):
            if not kind or shape is None:
                raise AssertionError(f"the standard's inference gives {output.name} no type or rank")
            output.type = ir.TensorType(ir.DataType(kind))
            output.shape = shape


def _shown(array: np.ndarray) -> str:
    """Return the content of a constant, in short, for its name."""
    return np.array2string(array, separator=",", threshold=MAX_SHOWN).replace(" ", "").replace("\n", "")


@functools.lru_cache(maxsize=10_000)
def _shown_small(dtype: np.dtype, shape: tuple[int, ...], content: bytes) -> str:
    """Return the same of a small one, which is written once: every graph on the way has the same few of them."""
    return _shown(np.ndarray(shape, dtype, content))


def _attribute(name: str, value: Any) -> ir.Attr:
    """Return an attribute; whole numbers, the most of them, without the long search for their type."""
    if isinstance(value, list | tuple) and value and all(type(element) is int for element in value):
        return ir.AttrInt64s(name, value)
    return ir.convenience.convert_attribute(name, value)


class _Arithmetic:
    """What `a + b` on values means: nodes of one builder."""

    def __init__(self, g: GraphBuilder) -> None:
        self._g = g

    def Add(self, a: Operand, b: Operand) -> ir.Value:  # noqa: N802 (names fixed by onnx-ir)
        return self._g.op("Add", a, b)

    def Sub(self, a: Operand, b: Operand) -> ir.Value:  # noqa: N802
        return self._g.op("Sub", a, b)

    def Mul(self, a: Operand, b: Operand) -> ir.Value:  # noqa: N802
        return self._g.op("Mul", a, b)

    def Div(self, a: Operand, b: Operand) -> ir.Value:  # noqa: N802
        return self._g.op("Div", a, b)

    def Neg(self, a: Operand) -> ir.Value:  # noqa: N802
        return self._g.op("Neg", a)
