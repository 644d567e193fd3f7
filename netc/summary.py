"""A spec as a table: layers, shapes, parameters, arithmetic and memory."""

from collections.abc import Iterable, Set
from dataclasses import asdict, dataclass
from math import prod

import onnx_ir as ir

from netc.build import Lowered
from netc.graph import Site, shape_of
from netc.graph.sizes import size
from netc.layers.base import sample
from netc.layers.context import StateTensor
from netc.memory import StepMemory
from netc.network import Network
from netc.spec.load import Loaded

_SHOWN = 5  # names on one line


@dataclass(frozen=True)
class Row:
    """One layer.

    `output` is the shape of one sample; `trained` of the `parameters` are those that training changes, in any of its
    phases; `multiply_adds` are those of the forward pass for one sample;
    `activation_bytes` is the size of the layer's top for a whole batch, which training keeps for the backward pass;
    `companion` whether the layer stands in a side, which inference does not have.
    """

    name: str
    type: str
    output: str
    parameters: int
    trained: int
    multiply_adds: int
    activation_bytes: int
    companion: bool

    @property
    def marks(self) -> str:
        """What stands behind the name in the table."""
        frozen = "" if self.trained == self.parameters else " (frozen)" if not self.trained else " (partly frozen)"
        return (" (side)" if self.companion else "") + frozen


@dataclass(frozen=True)
class PhaseRow:
    """One phase of training: its length, None of the last one; how many parameters it trains, and the layers that it
    leaves as they are, of those that have parameters.
    """

    epochs: int | None
    iterations: int | None
    solver: str
    base_lr: float
    sides: bool
    trained: int
    frozen: list[str]

    def text(self, parameters: int) -> str:
        """Return it on one line, `parameters` being those of the network."""
        length, unit = (self.epochs, "epoch") if self.epochs else (self.iterations, "step")
        lasts = f"{length} {unit}{'s' if length != 1 else ''}" if length else "to the end"
        more = f" and {len(self.frozen) - _SHOWN} more" if len(self.frozen) > _SHOWN else ""
        frozen = f"; frozen: {', '.join(self.frozen[:_SHOWN])}{more}" if self.frozen else ""
        return (
            f"{lasts}, {self.solver} with base_lr {self.base_lr:g}{'' if self.sides else ', without sides'}, "
            f"{self.trained:,} of {parameters:,} parameters trained{frozen}"
        )


@dataclass(frozen=True)
class Summary:
    """All layers of a network in order, and their totals; `step_memory` only where the training program was built.

    `precision` is what a training step computes in, `float32` or `mixed`; `phases` is empty where the spec names none.
    """

    name: str
    rows: list[Row]
    parameters: int
    trained: int
    multiply_adds: int
    activation_bytes: int
    batch_size: int
    warnings: list[str]
    phases: list[PhaseRow]
    precision: str = "float32"
    step_memory: StepMemory | None = None

    def as_dict(self) -> dict[str, object]:
        """Return plain data for JSON."""
        return asdict(self)

    def print(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.measure import Measurement
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for title in ("layer", "type", "output"):
            table.add_column(title, no_wrap=True)
        for title in ("parameters", "multiply-adds", "activations"):
            table.add_column(title, justify="right", no_wrap=True)
        shown = [row for row in self.rows if row.type != "Split"]  # which compute nothing: the ends of blocks
        for row in shown:
            numbers = (row.parameters, row.multiply_adds)
            counts = [f"{number:,}" if number else "" for number in numbers]
            table.add_row(
                row.name + row.marks,
                row.type,
                row.output,
                *counts,
                _bytes(row.activation_bytes),
            )
        totals = (f"{self.parameters:,}", f"{self.multiply_adds:,}", _bytes(self.activation_bytes))
        table.add_row("total", "", f"batch of {self.batch_size}", *totals)
        console = Console()
        if not console.is_terminal:  # a file or a pipe has no width that lines must keep
            console = Console(width=Measurement.get(console, console.options.update(max_width=1000), table).maximum)
        console.print(table)
        precision = "" if self.precision == "float32" else f", {self.precision} precision"
        trained = "" if self.trained == self.parameters else f", {self.trained:,} of them trained"
        print(f"{self.name}: {len(shown)} layers, {self.parameters:,} parameters{trained}{precision}")
        for number, phase in enumerate(self.phases, 1):
            print(f"phase {number} of {len(self.phases)}: {phase.text(self.parameters)}")
        if self.step_memory is not None:
            memory = self.step_memory
            named = ("working", "state", "batch", "program")
            parts = ", ".join(f"{_bytes(getattr(memory, name))} {name}" for name in named)
            print(f"a training step holds {_bytes(memory.total)}: {parts}")


def summarize(lowered: Lowered) -> Summary:
    """Return the table of a spec: layers as the last phase trains them, with the parameters of all phases."""
    spec, network = lowered.specs[-1].spec, lowered.training[-1]
    batch = spec.data.batch_size
    tensors: dict[str, StateTensor] = {}
    for each in (*lowered.training, lowered.testing):
        tensors |= {name: tensor for name, tensor in each.net.state.items() if tensor.role == "parameter"}
    trained = [_trained(each) for each in lowered.training]
    parameters, changed = _by_layer(tensors.values()), _by_layer(tensors[name] for name in frozenset().union(*trained))
    phases = [
        _phase(loaded, tensors, names) for loaded, names in zip(lowered.specs, trained, strict=True) if spec.phases
    ]
    products: dict[str, int] = {}
    for node in network.net.g.graph:
        if node.metadata_props.get("netc.part") == "forward":
            layer = node.metadata_props["netc.layer"]
            products[layer] = products.get(layer, 0) + multiply_adds(node) // batch
    seen: set[ir.Value] = set()
    rows: list[Row] = []
    for placed in network.placed:
        name = placed.layer.name
        tops = [network.tops[top] for top in placed.layer.tops if top in network.tops]
        rows.append(
            Row(
                name,
                placed.layer.type,
                ", ".join(sample(top) for top in tops) or ("scalar" if placed.is_objective else "none"),
                parameters.get(name, 0),
                changed.get(name, 0),
                products.get(name, 0),
                # A layer that passes its bottom on, such as Dropout at test time, keeps nothing of its own.
                sum(size(top) for top in tops if top not in seen),
                placed.is_companion,
            )
        )
        seen.update(tops)
    return Summary(
        spec.name,
        rows,
        sum(parameters.values()),
        sum(changed.values()),
        sum(row.multiply_adds for row in rows),
        sum(row.activation_bytes for row in rows),
        batch,
        [str(warning) for warning in network.warnings],
        phases,
        spec.solver.precision,
    )


def _trained(network: Network) -> Set[str]:
    """Return the names of the parameters that a step changes: not frozen, and of influence on the objective."""
    seen: set[ir.Value] = set()
    waiting = [network.terms[0].mean.value]
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value not in seen and node is not None:
            waiting += [read for read in node.inputs if read is not None]
        seen.add(value)
    net = network.net
    learned = (tensor for tensor in net.state.values() if tensor.role == "parameter" and tensor.lr_mult > 0)
    return frozenset(tensor.name for tensor in learned if net.inputs[tensor.name] in seen)


def _by_layer(tensors: Iterable[StateTensor]) -> dict[str, int]:
    """Return how many numbers the tensors of each layer have."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.layer] = counts.get(tensor.layer, 0) + prod(tensor.shape)
    return counts


def _phase(loaded: Loaded, tensors: dict[str, StateTensor], trained: Set[str]) -> PhaseRow:
    assert loaded.phase is not None, "the spec has phases"
    phase, solver = loaded.spec.phases[loaded.phase], loaded.spec.solver
    counts = _by_layer(tensors[name] for name in trained)
    frozen = [layer for layer in _by_layer(tensors.values()) if layer not in counts]
    return PhaseRow(
        phase.epochs, phase.iterations, solver.type, solver.base_lr, phase.sides, sum(counts.values()), frozen
    )


def multiply_adds(node: ir.Node) -> int:
    """Return the multiply-adds of a linear operator, 0 for any other."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    site = Site(node)
    if node.op_type == "Conv":
        # Each element of y sums over the input channels of its group and the taps of the kernel.
        return _count(site.y) * prod(int(n) for n in shape_of(site.x[1])[1:])
    if node.op_type == "ConvTranspose":
        # Each element of x is spread over the output channels of its group and the taps of the kernel.
        return _count(site.x[0]) * prod(int(n) for n in shape_of(site.x[1])[1:])
    inner = -2 if node.op_type == "Gemm" and site.attribute("transA") else -1
    return _count(site.y) * int(shape_of(site.x[0])[inner])


def _count(value: ir.Value) -> int:
    return prod(int(n) for n in shape_of(value))


def _bytes(count: int) -> str:
    if not count:
        return ""
    power = min((count.bit_length() - 1) // 10, 3)
    return f"{count / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"
