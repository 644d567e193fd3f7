"""The list of augmentations as nodes at the head of a training step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from netc.augment.base import AugmentError, Border, Draws, Geometric, Operation, Picture, Pixelwise
from netc.augment.mixing import Mixing, next_samples
from netc.augment.warp import Warp, places
from netc.graph import GraphBuilder, Origin, shape_of
from netc.graph.counter_rng import CounterRNG

KEY = "data.augment"  # no layer's name has a dot, so that none draws the same numbers


@dataclass(frozen=True)
class Part:
    """Labels that a loss reads, and their share, a scalar."""

    labels: ir.Value
    share: ir.Value


@dataclass
class Batch:
    """A batch on its way through the operations.

    Attributes:
        name: the input that is the image.
        values: the inputs [N, ...] by name; what an operation changes is replaced.
        fills: what dense inputs, whose places move with the image's, have beyond the edges.
        mixed: for labels that are mixed, what they are mixed of.
    """

    name: str
    values: dict[str, ir.Value]
    fills: dict[str, float]
    mixed: dict[str, list[Part]] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        _, _, H, W = (int(n) for n in shape_of(self.values[self.name]))
        return H, W


class Pipeline:
    """Applies operations to a batch.

    Args:
        g: the graph.
        random: gives what draws random numbers; only asked if something is drawn.
        place: `FILE:LINE` of the operation with an index.
        limits: lowest and highest raw value, if declared.
    """

    def __init__(
        self,
        g: GraphBuilder,
        random: Callable[[], CounterRNG],
        place: Callable[[int], str],
        limits: tuple[float, float] | None,
    ) -> None:
        self._g, self._random, self._place, self._limits = g, random, place, limits

    def apply(self, operations: Sequence[Operation], batch: Batch, report: Callable[[int, AugmentError], None]) -> None:
        """Change the batch; what does not fit it is reported by the index of the operation, and left out."""
        keys = _keys(operations)
        index = 0
        while index < len(operations):
            operation, end = operations[index], index + 1
            with self._g.origin(self._origin(operation, index)):
                try:
                    if isinstance(operation, Geometric):
                        end = _run_end(operations, index)
                        self._move(operations[index:end], keys[index:end], index, batch)
                    elif isinstance(operation, Pixelwise):
                        self._change(operation, keys[index], batch)
                    elif isinstance(operation, Mixing):
                        self._mix(operation, keys[index], operations[end:], batch)
                except _RunError as error:
                    report(error.index, error.error)
                except AugmentError as error:
                    report(index, AugmentError(f"{operation.type}: {error}", error.field))
            index = end

    def _origin(self, operation: Operation, index: int) -> Origin:
        return Origin(f"augment/{operation.type}", "preprocess", self._place(index))

    def _draws(self, key: str, batch: Batch, ones: int) -> Draws:
        """Return the draws of an operation; a number for each sample has `ones` axes of length 1 behind the samples."""
        count = int(shape_of(batch.values[batch.name])[0])
        return Draws(self._g, self._random(), key, (count, *[1] * ones))

    def _change(self, operation: Pixelwise, key: str, batch: Batch) -> None:
        x = batch.values[batch.name]
        picture = Picture(int(shape_of(x)[1]), *batch.size, self._limits)
        batch.values[batch.name] = operation.change(self._draws(key, batch, 3), x, picture)

    def _move(self, run: Sequence[Operation], keys: Sequence[str], first: int, batch: Batch) -> None:
        """Resample once for operations in a row; the last of them knows the places of the result."""
        y, x = places(self._g, batch.size)
        border: tuple[Border, float] | None = None
        exact = True
        for index, operation, key in reversed(list(zip(range(first, first + len(run)), run, keys, strict=True))):
            assert isinstance(operation, Geometric)
            with self._g.origin(self._origin(operation, index)):
                try:
                    y, x = operation.source(self._draws(key, batch, 2), y, x, batch.size)
                except AugmentError as error:
                    raise _RunError(index, AugmentError(f"{operation.type}: {error}", error.field)) from error
            own = operation.border_of
            if own is not None and border is not None and border != own:
                message = (
                    f"{operation.type}: its border, {own[0]} with fill {own[1]:g}, is another one than that of the "
                    "operation behind it, and both are one resampling; give them the same border and fill"
                )
                raise _RunError(index, AugmentError(message, "fill" if own[0] == border[0] else "border"))
            border, exact = own or border, exact and operation.exact
        warp = Warp(self._g, y, x, batch.size, exact, None if border is None else border[0])
        batch.values[batch.name] = warp.apply(batch.values[batch.name], border[1] if border else 0.0, nearest=False)
        for name, fill in batch.fills.items():
            batch.values[name] = warp.apply(batch.values[name], fill, nearest=True)

    def _mix(self, operation: Mixing, key: str, behind: Sequence[Operation], batch: Batch) -> None:
        g = self._g
        if not all(isinstance(other, Mixing) for other in behind):
            raise AugmentError("mixes whole samples, so that it stands behind all other operations; move it to the end")
        if int(shape_of(batch.values[batch.name])[0]) < 2:
            raise AugmentError("mixes samples of a batch, which has only one; give data.batch_size 2 or more")
        share, box = operation.plan(self._draws(key, batch, 0), batch.size)
        with g.arithmetic():
            rest = 1.0 - share
            for name, value in batch.values.items():
                moves = box is not None and (name == batch.name or name in batch.fills)
                if box is not None and moves:
                    batch.values[name] = g.Where(box.mask, next_samples(g, value), value)
                    if name in batch.mixed:  # by an operation before: what it mixed has the rectangle too
                        batch.mixed[name] = [
                            Part(g.Where(box.mask, next_samples(g, part.labels), part.labels), part.share)
                            for part in batch.mixed[name]
                        ]
                elif value.dtype == ir.DataType.INT32:
                    parts = batch.mixed.get(name) or [Part(value, g.constant(1.0))]
                    batch.mixed[name] = [Part(part.labels, _times(part.share, share, g)) for part in parts] + [
                        Part(next_samples(g, part.labels), _times(part.share, rest, g)) for part in parts
                    ]
                else:
                    batch.values[name] = value * share + next_samples(g, value) * rest


class _RunError(Exception):
    """What does not fit in a run of geometric operations, and which of them it is."""

    def __init__(self, index: int, error: AugmentError) -> None:
        self.index, self.error = index, error


def _times(share: ir.Value, factor: ir.Value, g: GraphBuilder) -> ir.Value:
    """Return a product of shares; the first share of all is 1."""
    return factor if share.is_initializer() else g.Mul(share, factor)


def _keys(operations: Sequence[Operation]) -> list[str]:
    """Return the names under which operations draw: the type, and the number among those of its type from 2 on."""
    counts: dict[str, int] = {}
    keys: list[str] = []
    for operation in operations:
        number = counts[operation.type] = counts.get(operation.type, 0) + 1
        keys.append(f"{KEY}/{operation.type}" + (f"/{number}" if number > 1 else ""))
    return keys


def _run_end(operations: Sequence[Operation], first: int) -> int:
    """Return the end of the geometric operations that are one resampling."""
    end = first
    while end < len(operations):
        operation = operations[end]
        if not isinstance(operation, Geometric):
            break
        end += 1
        if operation.ends_run:
            break
    return end
