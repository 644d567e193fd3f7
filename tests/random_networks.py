"""Random networks: a spec drawn layer by layer, each layer such that it fits what is there already.

The generator computes every layer with its PyTorch twin while it declares it. So it knows shapes without stating them
again, keeps values tame, and gives a logarithm what is positive. All numbers of a network, batch and state, are a pure
function of a seed and the tensor's name, so that leaving out one layer changes nothing about the others.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from netc.layers import LAYERS
from netc.layers.base import Loss, Metric
from netc.layers.metric import CountingMetric
from tests.random_values import PLANNED, VOID, drawn, moment_of
from tests.torch_layers_base import Run, Tensor

Declared = dict[str, Any]
# Returns the fields of a layer of the given type above the given top, or None where it does not fit.
Proposal = Callable[["Generator", str, str], Declared | None]

LARGEST_TOP = 300  # values a sample
LARGEST_VALUE = 12.0

LAYER_PROPOSALS: dict[str, Proposal] = {}
LOSS_PROPOSALS: dict[str, Proposal] = {}
ROW_PROPOSALS: dict[str, Proposal] = {}  # of types without a twin, drawn only where a network is to have them
# No gradient passes: what comes next had better read what they read.
BLIND = {"Threshold", "ArgMax", "Embed"}
FILLERS: list[Any] = [
    "xavier",
    "msra",
    "gaussian",
    {"type": "uniform", "min": -0.1, "max": 0.1},
    {"type": "constant", "value": 0.1},
]


def proposes(*types: str) -> Callable[[Proposal], Proposal]:
    """Let a function declare layers of these types."""

    def add(function: Proposal) -> Proposal:
        for name in types:
            (LOSS_PROPOSALS if issubclass(LAYERS.members[name], Loss) else LAYER_PROPOSALS)[name] = function
        return function

    return add


def is_objective(kind: str) -> bool:
    """Whether a type is a loss or a metric, which nothing stands above."""
    return issubclass(LAYERS.members[kind], Loss | Metric)


class Generator:
    """Draws one spec.

    Attributes:
        tops: values of what a layer may read, by name.
        layers: what was declared in the branch at hand.
        inputs: what was declared of the batch.
    """

    def __init__(self, seed: int, batch: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.seed, self.batch = seed, batch or self.integer(2, 4)
        self.moment = moment_of(seed)
        self.run = Run(self._state, True, self.moment.seed, self.moment.step)
        self.inputs: dict[str, Declared] = {}
        self.tops: dict[str, Tensor] = {}
        self.layers: list[Declared] = []
        self._above: str | None = None  # what a layer without bottoms reads
        self._last = ""  # what the next layer had better read
        self._read: set[str] = set()
        self._names: dict[str, int] = {}
        self._depth = 0  # of sides
        self._scores: dict[str, Tensor] = {}  # what the first loss of each side reads
        self._tied: list[tuple[Declared, list[int]]] = []  # layers with named parameters, with the shape they read

    # -- choices ---------------------------------------------------------------------------------------------

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def number(self, low: float, high: float) -> float:
        """Draw a number with three decimals."""
        return round(float(self.rng.uniform(low, high)), 3)

    def chance(self, probability: float) -> bool:
        """Draw true with this probability."""
        return bool(self.rng.random() < probability)

    def choice(self, values: Sequence[Any]) -> Any:
        """Draw one of some values."""
        return values[self.integer(0, len(values) - 1)]

    def some(self, **fields: Sequence[Any]) -> Declared:
        """Draw values for some of the fields and leave out the others."""
        return {name: self.choice(values) for name, values in fields.items() if self.chance(0.5)}

    def axis(self, top: str, low: int = 1) -> int:
        """Draw an axis of a sample, counted from the front or from behind."""
        rank = self.tops[top].ndim
        axis = self.integer(low, rank - 1)
        return axis - rank if self.chance(0.4) else axis

    def shorten(self, values: Sequence[int]) -> int | list[int]:
        """Write equal numbers as one, mostly."""
        return values[0] if len(set(values)) == 1 and self.chance(0.7) else list(values)

    def divisor(self, number: int) -> int:
        """Draw a divisor."""
        return int(self.choice([n for n in range(1, number + 1) if number % n == 0]))

    # -- what is there ---------------------------------------------------------------------------------------

    def sample(self, top: str) -> list[int]:
        """Return the shape of one sample of a top."""
        return list(self.tops[top].shape[1:])

    def numbers(self) -> list[str]:
        """Return what layers may read that compute with numbers."""
        return [name for name, value in self.tops.items() if value.is_floating_point() and value.ndim > 1]

    def another(self, shape: Sequence[int], besides: str) -> str:
        """Return some top whose samples have this shape: one that is there, or a projection of one."""
        fitting = [name for name in self.numbers() if self.sample(name) == list(shape) and name != besides]
        if fitting and self.chance(0.7):
            return str(self.choice(fitting))
        sources = [name for name in self.numbers() if math.prod(self.sample(name)) <= 100]
        return self.projected(str(self.choice(sources or [besides])), shape)

    def projected(self, source: str, shape: Sequence[int]) -> str:
        """Declare layers that bring a top into a shape."""
        if 2 <= len(shape) <= 4 and self.sample(source)[1:] == list(shape)[1:]:
            return self.must({"type": "Convolution", "bottom": source, "num_output": shape[0], "kernel_size": 1})
        top = self.must({"type": "InnerProduct", "bottom": source, "num_output": math.prod(shape)})
        return top if len(shape) == 1 else self.must({"type": "Reshape", "bottom": top, "shape": list(shape)})

    def input(self, kind: str, shape: Sequence[int] | None, classes: int | None = None) -> str:
        """Declare one more input."""
        name = self.fresh(kind)
        self.inputs[name] = {} if shape is None else {"shape": list(shape)}
        if classes is not None:
            self.inputs[name]["classes"] = classes
        self.tops[name] = torch.from_numpy(drawn(self.seed, name, [self.batch, *(shape or ())], classes))
        return name

    def fresh(self, kind: str) -> str:
        """Return a name that is not taken."""
        self._names[kind] = self._names.get(kind, 0) + 1
        return f"{kind}{self._names[kind]}"

    def _state(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(drawn(self.seed, name, shape))

    # -- declaring -------------------------------------------------------------------------------------------

    def must(self, declared: Declared) -> str:
        """Declare a layer that fits, and return its name."""
        name = self.add(declared, plain=True)
        assert name is not None
        return name

    def add(self, declared: Declared, plain: bool = False) -> str | None:
        """Declare a layer and return its name; None if its values would be too many, too large or almost zero.

        A layer that is not `plain` may get fillers, penalties, a weight in the objective or shared parameters.
        """
        bottoms = declared["bottom"] if isinstance(declared["bottom"], list) else [declared["bottom"]]
        scope = "part/" if self.chance(0.1) else ""
        declared = {"name": self.fresh(scope + declared["type"].lower()), **declared}
        name, tops = str(declared["name"]), self._compute(declared, bottoms)
        has_tops = not is_objective(declared["type"])
        if not plain and has_tops:
            if self._embellish(declared, bottoms):
                tops = self._compute(declared, bottoms)
            if not all(self._is_tame(value) for value in tops):
                return None
        if bottoms == [self._above] and self.chance(0.6):
            del declared["bottom"]
        self._read.update(bottoms)
        self.layers.append(declared)
        if has_tops and tops:
            self.tops.update(zip(declared.get("top", [name]), tops, strict=True))
            self._above = name
            if declared["type"] not in BLIND:
                self._last = declared.get("top", [name])[0]
        return name

    def _compute(self, declared: Declared, bottoms: Sequence[str]) -> list[Tensor]:
        with torch.no_grad():
            top = self.run.forward(LAYERS.parse(declared), [self.tops[name] for name in bottoms])
        return [top] if isinstance(top, Tensor) else list(top)

    def _is_tame(self, value: Tensor) -> bool:
        largest = float(value.abs().max()) if torch.isfinite(value).all() else math.inf
        return 1e-2 < largest < LARGEST_VALUE and value[0].numel() <= LARGEST_TOP

    def _embellish(self, declared: Declared, bottoms: Sequence[str]) -> bool:
        """Add fields that any layer has; return whether its values change by that."""
        fields, count = LAYERS.members[declared["type"]].model_fields, self.run.parameters
        if declared["type"] != "Silence" and self.chance(0.06):
            declared["loss_weight"] = self.number(0.01, 0.2)
        for suffix in ("weight_filler", "bias_filler"):
            if (
                suffix in fields
                and len(bottoms) == 1
                and self.chance(0.15)
                and declared.get(suffix[:-7] + "_term", True)
            ):
                declared[suffix] = self.choice(FILLERS if declared["type"] in ("Convolution", "Embed") else FILLERS[3:])
        if not count or "param" in declared:
            return False
        kinds = {"l1": [0.01, 0.05], "l2": [0.01, 0.1], "lr_mult": [0.0, 2.0], "decay_mult": [0.0, 0.5]}
        if self.chance(0.25):
            declared["param"] = [self.some(**kinds) for _ in range(self.integer(1, count))]
        if len(bottoms) > 1 or not self.chance(0.25):
            return False
        given = declared.get("param", [])
        declared["param"] = [
            {**(given[i] if i < len(given) else {}), "name": self.fresh("shared")} for i in range(count)
        ]
        self._tied.append((declared, self.sample(bottoms[0])))
        return True

    def grow(self, kind: str | None = None) -> None:
        """Declare one more layer of the given type, or a random one, if one is found that fits."""
        for attempt in range(12):
            chosen = kind if kind and attempt < 6 else str(self.choice(list(LAYER_PROPOSALS)))
            bottom = self._last if self.chance(0.7) else str(self.choice(self.numbers()))
            saved = self._saved()
            if self._tied and self.chance(0.1):
                declared = self._twice()
            else:
                declared = (ROW_PROPOSALS.get(chosen) or LAYER_PROPOSALS[chosen])(self, chosen, bottom)
                declared = None if declared is None else {"type": chosen, "bottom": bottom, **declared}
            wild = chosen in ROW_PROPOSALS and attempt == 5  # a layer that is never tame takes part all the same
            name = None if declared is None else self.add(declared, plain=wild)
            if name is None or declared is None:
                self._restore(saved)
                continue
            self._continue(declared["type"], name)
            return

    def _continue(self, kind: str, name: str) -> None:
        """Declare what often follows a layer: a batch norm, or a side; and make one number a sample readable."""
        if name in self.tops and self.tops[name].ndim == 1:
            self.must({"type": "Reshape", "bottom": name, "shape": [1]})
        elif kind in ("Convolution", "Deconvolution", "InnerProduct") and self.chance(0.25):
            declared = LAYER_PROPOSALS["BatchNorm"](self, "BatchNorm", name)
            if declared is not None:
                self.add({"type": "BatchNorm", "bottom": name, **declared})
        elif name in self.tops and self._depth < 2 and self.chance(0.12):
            self._branch(name)

    def _twice(self) -> Declared | None:
        """Declare a layer once more that shares its parameters."""
        first, shape = self.choice(self._tied)
        fitting = [name for name in self.numbers() if self.sample(name) == shape]
        if not fitting:
            return None
        again = {key: value for key, value in first.items() if key not in ("name", "bottom", "side", "loss_weight")}
        return {**again, "bottom": self.choice(fitting), "param": [{"name": p["name"]} for p in first["param"]]}

    def _saved(self) -> tuple[Any, ...]:
        return list(self.layers), dict(self.tops), dict(self.inputs), set(self._read), self._above, self._last

    def _restore(self, saved: tuple[Any, ...]) -> None:
        layers, self.tops, self.inputs, self._read, self._above, self._last = saved
        self.layers[:] = layers

    # -- objectives ------------------------------------------------------------------------------------------

    def objective(self, bottom: str, must_weigh: bool = False) -> str:
        """Declare a loss that reads a top, perhaps through other layers, and return what it reads."""
        for attempt in range(10):
            kind = "SoftmaxWithLoss" if attempt == 9 else str(self.choice(list(LOSS_PROPOSALS)))
            saved = self._saved()
            declared = LOSS_PROPOSALS[kind](self, kind, bottom)
            if declared is not None:
                if self.chance(0.4):
                    declared["loss_weight"] = self.choice([0.5, 2, 0.1] if must_weigh else [0.5, 3, 0, 0.01])
                declared = {"type": kind, **declared}
                value = self._compute({"name": "it", **declared}, declared["bottom"])[0]
                if 1e-3 < float(value) < 100.0:
                    self.must(declared)
                    self._measure(declared)
                    return str(declared["bottom"][0])
            self._restore(saved)
        raise AssertionError("no loss fits")

    def _measure(self, loss: Declared) -> None:
        """Declare a metric beside a loss."""
        scores, labels = loss["bottom"][0], loss["bottom"][1]
        if not self.chance(0.5):
            return
        declared: Declared = {"type": "MeanAbsoluteError", "bottom": [scores, labels]}
        if not self.tops[labels].is_floating_point():
            declared["type"] = self.choice(["Accuracy", "ConfusionMatrix", "ClassAccuracy", "MeanIoU"])
            if labels.startswith("void"):
                declared["ignore_label"] = VOID
            if declared["type"] == "Accuracy":
                declared |= self.some(top_k=range(1, self.sample(scores)[0]))
        if self.chance(0.2):
            phase = self.choice(["train", "test"])
            if not issubclass(LAYERS.members[declared["type"]], CountingMetric):
                declared["include"] = {"phase": phase}
        self.must(declared)

    def _branch(self, owner: str) -> None:
        """Give the layer that was declared last a side."""
        owned, outer = self.layers[-1], (self.layers, self.tops, self._above, self._last)
        self.layers, self.tops, self._above, self._last = [], dict(self.tops), owner, owner
        self._depth += 1
        for _ in range(self.integer(0, 2)):
            self.grow()
        if self.chance(0.5):
            scores = self.projected(self._last, [int(self.inputs["label1"]["classes"])])
            self.must({"type": "SoftmaxWithLoss", "bottom": [scores, "label1"]})
        else:
            scores = self.objective(self._last)
        owned["side"] = {**self._weighed(), "layers": self.layers}
        self._depth -= 1
        self._scores[scores] = self.tops[scores]
        self.layers, self.tops, self._above, self._last = outer

    def _weighed(self) -> Declared:
        """Draw when a side counts how much."""
        until = self.choice([0.25, 0.5, 1.0])
        weight = self.choice(
            [
                self.number(0.1, 1.0),
                {"start": 0.5, "policy": "constant"},
                {"start": 1.0, "policy": "linear", "end": 0.25, "until": until},
                {"start": 0.3, "policy": "linear"},
                {"start": 0.7, "policy": "step_off", "until": until},
                {"start": 1.0, "policy": "dsn", "epochs": self.integer(1, 12), "factor": 0.9},
            ]
        )
        return self.some(loss_weight=[weight], threshold=[0.0, 0.2, 1.0])

    def _fuse(self) -> Declared:
        """Return a head over the scores of all sides, if it is easy to make one."""
        shapes = {tuple(value.shape) for value in self._scores.values()}
        classes = self.inputs["label1"]["classes"]
        if len(self._scores) < 2 or len(shapes) > 1 or len(shape := shapes.pop()) != 2 or shape[1] < classes:
            return {}
        joint = self.choice(["WeightedSum", "Concat", "Eltwise"])
        loss: Declared = {"name": self.fresh("fused"), "type": "SoftmaxWithLoss"}
        return {"fuse": {**self._weighed(), "layers": [{"name": self.fresh("head"), "type": joint}, loss]}}

    # -- the whole -------------------------------------------------------------------------------------------

    def spec(self, guest: str) -> Declared:
        """Draw a spec, one of whose layers is of the type `guest`, if it fits somewhere."""
        shapes = [[self.integer(3, 8)], [self.integer(1, 4), self.integer(4, 9)]]
        shapes += 4 * [[self.integer(1, 4), self.integer(4, 9), self.integer(4, 9)]]
        shapes += [[self.integer(1, 3), self.integer(3, 4), self.integer(3, 4), self.integer(3, 5)]]
        self._above = self._last = image = self.input("image", self.choice(shapes))
        self.input("label", None, self.integer(2, 4))
        data: Declared = {"source": "none", "batch_size": self.batch}
        if self.chance(0.3):
            channels = [self.number(-1.0, 1.0) for _ in range(self.sample(image)[0])]
            data |= self.some(mean=[0.5, channels], scale=[0.5, 2.0])
            mean = torch.tensor(data.get("mean", 0.0), dtype=torch.float64)
            mean = mean.reshape([-1, *[1] * (self.tops[image].ndim - 2)]) if mean.ndim else mean
            self.tops[image] = (self.tops[image] - mean) * data.get("scale", 1.0)
        layers = self.integer(2, 7)
        turn = self.integer(0, 1)
        for index in range(layers):
            self.grow(guest if index == turn and not is_objective(guest) else None)
        self._end(guest)
        inputs = self.inputs if self.chance(0.5) else dict(reversed(self.inputs.items()))
        if next(name for name in inputs if "classes" not in inputs[name]) != image:
            inputs = self.inputs  # preprocessing is the first one's
        solver = {"type": "SGD", "base_lr": 0.1, "max_iter": PLANNED, "random_seed": self.moment.seed}
        fuse = self._fuse()
        if fuse and next(name for name in inputs if "classes" in inputs[name]) != "label1":
            inputs = self.inputs  # the fused loss reads the first labels
        named = {"netc": 1, "name": "random", "inputs": inputs, "data": data, "layers": self.layers}
        return {**named, **fuse, "solver": solver}

    def _end(self, guest: str) -> None:
        """Join what nothing reads yet, and end in losses, and in the guest if it is a loss or metric."""
        ends = [name for name in self.numbers() if name not in self._read and name not in self.inputs]
        ends = [str(name) for name in self.rng.permutation(ends or [self._last])]
        if not self.run.known:
            ends[0] = self.projected(ends[0], [self.integer(2, 5)])
        while len(ends) > 1 and self.chance(0.6):
            first, second = ends.pop(), ends.pop()
            bottoms = [first, self.projected(second, self.sample(first))]
            kind = self.choice(["Eltwise", "Concat", "WeightedSum"])
            ends.append(self.must({"type": kind, "bottom": bottoms}))
        weighed = False
        for top in ends[:3]:
            self.objective(top, must_weigh=not weighed)
            weighed = True
        if ends[3:]:
            self.add({"type": "Silence", "bottom": ends[3:]})
        if is_objective(guest):
            self.must({"type": guest, **(ROW_PROPOSALS[guest](self, guest, ends[0]) or {})})
