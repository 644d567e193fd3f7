"""Who reads whom: resolve names of layers, bottoms and branches before anything is lowered.

Goals: every layer in order with the names of its bottoms; duplicates, unknown and hidden names reported.
Non-goals: shapes and types; those are the layers' business.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

from netc.errors import Diagnostic, did_you_mean
from netc.graph.builder import Part
from netc.layers.base import Layer, Loss, Metric, Phase, Side
from netc.spec.load import Loaded, Path, Unknown

# Names of tensors that programs have beside the layers' own.
RESERVED = {"step", "seed", "max_steps", "phase_start", "draw", "total", "lr", "loss_scale"}


@dataclass(frozen=True)
class Placed:
    """A layer that takes part in a phase: its place in the spec, its bottoms, the branches that it stands in."""

    layer: Layer
    path: Path
    bottoms: tuple[str | None, ...]  # None: a bottom that could not be resolved and was reported
    sides: tuple[Side, ...] = ()
    fused: bool = False  # in the head that fuses all sides

    @property
    def is_objective(self) -> bool:
        """Whether the layer is a loss or a metric, which no other layer continues from."""
        return isinstance(self.layer, Loss | Metric)

    @property
    def is_companion(self) -> bool:
        """Whether the layer stands in a side."""
        return bool(self.sides) and not self.fused


@dataclass
class Wiring:
    """All layers of one phase in order, and the mistakes found on the way."""

    placed: list[Placed] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def readers(self, name: str) -> Sequence[Placed]:
        """Return the layers that have `name` among their bottoms."""
        return self._readers.get(name, ())

    @cached_property
    def kept(self) -> Set[str]:
        """Names of the layers of inference: all but objectives and sides, of which a fused head keeps what it reads."""
        found: set[str] = set()
        read: set[str | None] = set()
        for placed in reversed(self.placed):  # readers come later
            read_by_head = placed.is_companion and not read.isdisjoint(placed.layer.tops)
            if not placed.is_objective and (not placed.is_companion or read_by_head):
                found.add(placed.layer.name)
                read.update(placed.bottoms if placed.fused or placed.is_companion else ())
        return found

    @cached_property
    def only_minimised(self) -> Set[str]:
        """Names of the layers, none of them a loss, that nothing but a `loss_weight` needs: no outputs of a model."""
        found: set[str] = set()
        for placed in reversed(self.placed):  # readers come later
            readers = [reader.layer.name for top in placed.layer.tops for reader in self.readers(top)]
            if not placed.is_objective and (placed.layer.is_loss or readers) and found.issuperset(readers):
                found.add(placed.layer.name)
        return found

    @cached_property
    def _readers(self) -> Mapping[str | None, Sequence[Placed]]:
        found: dict[str | None, list[Placed]] = {}
        for placed in self.placed:
            for name in dict.fromkeys(placed.bottoms):
                found.setdefault(name, []).append(placed)
        return found

    @cached_property
    def before_rectifiers(self) -> Set[str]:
        """Names of the layers whose top reaches a rectifier, with nothing but layers between that let it through."""
        found: set[str] = set()
        for placed in reversed(self.placed):  # readers come later
            layers = [reader.layer for top in placed.layer.tops for reader in self.readers(top)]
            if any(layer.rectifies or (layer.passes_rectifier and layer.name in found) for layer in layers):
                found.add(placed.layer.name)
        return found


def wire(loaded: Loaded, phase: Phase) -> Wiring:
    """Resolve the names of a spec for one phase."""
    return _Wirer(loaded, phase).run()


def label_warnings(loaded: Loaded, wiring: Wiring) -> list[Diagnostic]:
    """Return a warning for each reader of labels that counts what is no class and another one ignores."""
    found: list[Diagnostic] = []
    for name, declared in loaded.spec.inputs.items():
        readers = [p for p in wiring.readers(name) if p.layer.takes_labels and p.bottoms[-1] == name]
        readers = [p for p in readers if not (isinstance(p.layer, Metric) and p.layer.counts)]
        ignoring = {p.layer.ignored: p.layer.name for p in reversed(readers) if p.layer.ignored is not None}
        for label, layer in ignoring.items():
            if 0 <= label < (declared.classes or 0):
                continue
            for placed in (p for p in readers if p.layer.ignored != label):
                message = f"{placed.layer.name}: counts the label {label}, which is no class and {layer} ignores"
                remedy = f"give it ignore_label: {label}, or no label may be {label}"
                found.append(loaded.at(placed.path, f"{message}; {remedy}"))
    return found


class _Wirer:
    def __init__(self, loaded: Loaded, phase: Phase) -> None:
        self._loaded, self._phase = loaded, phase
        self._wiring = Wiring()
        spec = loaded.spec
        self._labels = [n for n, declared in spec.inputs.items() if declared.classes or declared.shape is None]
        self._ambiguous: set[str] = set()  # names given twice: what they mean is unknown
        self._objectives: dict[str, str] = {}  # names of losses and metrics, which have no top, with their types
        self._known: dict[str, Path] = {name: ("inputs", name) for name in spec.inputs}
        self._several: dict[str, Sequence[str]] = {}  # names of layers whose tops have names of their own, with those
        self._hidden: dict[str, str] = {}  # names inside a finished branch, with the layer it belongs to
        self._shared: dict[str, Path] = {}  # names of shared parameters

    def run(self) -> Wiring:
        spec = self._loaded.spec
        for name in spec.inputs:
            if name in RESERVED:
                self._report(("inputs", name), f'"{name}" is a name that every step uses; rename this input', key=True)
        first = next((name for name, declared in spec.inputs.items() if declared.classes is None), None)
        visible = set(spec.inputs)
        self._layers(spec.layers, ("layers",), visible, first, ())
        if spec.fuse is not None:
            self._fuse(spec.fuse, visible)
        if not any(_gives_loss(p.layer) and not p.is_companion for p in self._wiring.placed):
            fused = spec.fuse.layers if spec.fuse is not None else []
            remedy = "nothing to train; end the layers with one, such as {name: loss, type: SoftmaxWithLoss}"
            message = self._without_loss("the spec", [*spec.layers, *fused], f", so there is {remedy}")
            self._report(("layers",), message, key=True)
        for name, place in self._known.items():
            above = next((shared for shared in self._shared if name.startswith(f"{shared}/")), None)
            if above is not None:
                message = f'"{name}" could be the solver\'s memory of the parameter "{above}"; rename one of them'
                self._report(place, message)
        return self._wiring

    def _fuse(self, fuse: Side, visible: set[str]) -> None:
        """Place the head that reads the scores of all sides."""
        scores: dict[int, str] = {}  # of each side, what its first loss reads
        for placed in self._wiring.placed:
            if placed.sides and isinstance(placed.layer, Loss) and placed.bottoms[0] is not None:
                scores.setdefault(id(placed.sides[-1]), placed.bottoms[0])
        if len(scores) < 2 and not any(isinstance(placed.layer, Unknown) for placed in self._wiring.placed):
            message = f"fuse: needs at least 2 sides that end in a loss in the {self._phase} phase, got {len(scores)}"
            self._report(("fuse",), f"{message}; declare them with side:", key=True)
            return
        before, inside = len(self._wiring.placed), visible | self._hidden.keys()
        self._layers(fuse.layers, ("fuse", "layers"), inside, list(scores.values()), (fuse,), fused=True)
        if not any(_gives_loss(placed.layer) for placed in self._wiring.placed[before:]):
            message = self._without_loss("the head", fuse.layers, "; end its layers with one, as the sides do")
            self._report(("fuse",), f"fuse: {message}", key=True)

    def _without_loss(self, what: str, layers: Sequence[Layer], remedy: str) -> str:
        """Say that a list of layers has no loss, or which one it has in the other phase alone."""
        elsewhere = next((layer for layer in layers if layer.is_loss), None)
        if elsewhere is None:
            return f"{what} has no loss{remedy}"
        return f"{what} has no loss in the {self._phase} phase; remove the include of {elsewhere.name}"

    def _layers(
        self,
        layers: Sequence[Layer],
        path: Path,
        visible: set[str],
        above: str | list[str] | None,
        sides: tuple[Side, ...],
        fused: bool = False,
    ) -> None:
        """Place layers; `above` is what a layer reads that names no bottoms."""
        for index, layer in enumerate(layers):
            here = (*path, index)
            if layer.include is not None and layer.include.phase != self._phase:
                continue
            if isinstance(layer, Metric) and layer.counts:
                if layer.include is not None and layer.include.phase == "train":
                    message = f"{layer.name}: {layer.type} is made of a whole test split; remove its include"
                    self._report((*here, "include"), message)
                if self._phase == "train":
                    continue
            self._check_names(layer, here)
            bottoms = self._bottoms(layer, here, visible, above)
            if not self._names_of_parameters_fit(layer, here):
                bottoms = (None,)
            placed = Placed(layer, here, bottoms, sides, fused)
            self._wiring.placed.append(placed)
            if placed.is_objective:
                self._objectives[layer.name] = layer.type
            else:
                visible |= set(layer.tops)
                if tuple(layer.tops) != (layer.name,):
                    self._several[layer.name] = layer.tops
                above = layer.name if layer.tops else above
            if layer.side is not None:
                self._branch(layer, here, visible, sides)

    def _branch(self, owner: Layer, path: Path, visible: set[str], sides: tuple[Side, ...]) -> None:
        assert owner.side is not None
        if sides and sides[0] is self._loaded.spec.fuse:
            message = "the fused head has no sides; its layers come after all of them"
            self._report((*path, "side"), f"{owner.name}: {message}")
            return
        if isinstance(owner, Loss | Metric):
            self._report((*path, "side"), f"{owner.name}: a {owner.type} has no top that a side could branch off")
            return
        inside = set(visible)
        before = len(self._wiring.placed)
        self._layers(owner.side.layers, (*path, "side", "layers"), inside, owner.name, (*sides, owner.side))
        if not any(_gives_loss(placed.layer) for placed in self._wiring.placed[before:]):
            remedy = "; end its layers with one, such as {type: SoftmaxWithLoss}"
            message = self._without_loss(f"the side of {owner.name}", owner.side.layers, remedy)
            self._report((*path, "side"), message, key=True)
        self._hidden |= dict.fromkeys(inside - visible, owner.name)

    def _check_names(self, layer: Layer, path: Path) -> None:
        self._check_name(layer.name, "layer", (*path, "name"), path)
        for top in layer.tops:
            if tuple(layer.tops) != (layer.name,):
                self._check_name(top, "top", (*path, "top"), (*path, "top"))

    def _names_of_parameters_fit(self, layer: Layer, path: Path) -> bool:
        """Whether the names that a layer gives its parameters are free, or those of other parameters."""
        mistakes = len(self._wiring.diagnostics)
        for index, parameter in enumerate(layer.param):
            if parameter.name is not None and parameter.name not in self._shared:
                place = (*path, "param", index, "name")
                self._check_name(parameter.name, "parameter", place, place)
                self._shared[parameter.name] = place
        return len(self._wiring.diagnostics) == mistakes

    def _check_name(self, name: str, what: str, path: Path, place: Path) -> None:
        if name in RESERVED:
            self._report(path, f'"{name}" is a name that every step uses; rename this {what}')
        elif len(parts := name.split("/")) > 2 and parts[-2] in get_args(Part):
            self._report(path, f'"{name}" could be the name of a node of the graph; rename this {what}')
        elif name in self._known:
            first = self._loaded.tree.position(self._known[name])
            where = f"line {first.line}" if first.line else first.file
            self._report(path, f'the name "{name}" is taken already ({where}); names must be unique')
            self._ambiguous.add(name)
        self._known.setdefault(name, place)

    def _bottoms(
        self, layer: Layer, path: Path, visible: set[str], above: str | list[str] | None
    ) -> tuple[str | None, ...]:
        names: list[str | None] = list(layer.bottom)
        if isinstance(layer, Unknown):
            return (None,)
        if not names:
            if above is None:
                missing = "no layer above it and no input of numbers, with a shape and no classes"
                self._report(path, f"{layer.name}: {missing}; give bottom")
                return (None,)
            names = [above] if isinstance(above, str) else [*above]
            if layer.takes_labels and not self._labels:
                self._report(
                    path,
                    f"{layer.name}: {layer.type} needs labels; declare an input such as `label: {{classes: 10}}`",
                )
                return (None,)
            if layer.takes_labels:
                names.append(self._labels[0])
        if len(names) < layer.min_bottoms or (layer.max_bottoms is not None and len(names) > layer.max_bottoms):
            self._report((*path, "bottom"), f"{layer.name}: {layer.type} {_arity(layer)}, got {len(names)}")
            return (None,)
        return tuple(name if self._resolves(str(name), layer, path, visible) else None for name in names)

    def _resolves(self, name: str, layer: Layer, path: Path, visible: set[str]) -> bool:
        if name in self._ambiguous:
            return False
        if name in visible:
            return True
        if name in self._several:
            tops = ", ".join(self._several[name])
            reason = f'"{name}" has several tops; name one: {tops}' if tops else f'"{name}" has no top'
        elif name in self._objectives:
            reason = f'"{name}" is a {self._objectives[name]}, which has no top; name the layer that it reads'
        elif name in self._hidden:
            reason = f'"{name}" is inside the side of {self._hidden[name]}, which inference does not have'
        elif name == layer.name:
            reason = f'"{name}" is the layer itself'
        elif name in self._shared:
            reason = f'"{name}" is a parameter; name the layer that it belongs to'
        elif given := next((p for p in self._all_layers() if name in (p.name, *p.tops)), None):
            reason = f'"{name}" stands below this layer; layers go from top to bottom'
            if given.include is not None and given.include.phase != self._phase:
                reason = f'"{name}" is not part of the {self._phase} phase; remove its include'
        else:
            reason = f'unknown bottom "{name}"{did_you_mean(name, visible)}'
        self._report((*path, "bottom"), f"{layer.name}: {reason}")
        return False

    def _all_layers(self) -> list[Layer]:
        """Return all layers of the spec, in sides and in both phases."""
        spec = self._loaded.spec
        return _all_layers([*spec.layers, *(spec.fuse.layers if spec.fuse is not None else ())])

    def _report(self, path: Path, message: str, key: bool = False) -> None:
        self._wiring.diagnostics.append(self._loaded.at(path, message, key=key))


def _gives_loss(layer: Layer) -> bool:
    """Whether a branch with the layer has an objective, as far as one can know."""
    return layer.is_loss or isinstance(layer, Unknown)


def _arity(layer: Layer) -> str:
    low, high = layer.min_bottoms, layer.max_bottoms
    if low == high:
        number = "one bottom" if low == 1 else f"{low} bottoms"
    else:
        number = f"at least {low} bottoms" if high is None else f"{low} to {high} bottoms"
    example = ", such as [ip2, label]" if layer.takes_labels else ""
    return f"takes {number}{example}"


def _all_layers(layers: Sequence[Layer]) -> list[Layer]:
    found: list[Layer] = []
    for layer in layers:
        found.append(layer)
        if layer.side is not None:
            found += _all_layers(layer.side.layers)
    return found
