"""Random networks against PyTorch: every loss, metric, new statistic and gradient."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import yaml

from netc.build import build
from netc.grad import engine
from netc.grad.engine import Table, gradients
from netc.grad.table import VJP
from netc.layers import LAYERS
from netc.layers.base import Layer, Metric
from netc.layers.context import StateTensor
from netc.network import lower
from netc.rewrite.passes import Platform, Target, optimize_step
from netc.spec.load import Loaded, load
from netc.spec.text import parse_tree
from tests import random_layers, random_losses  # noqa: F401 (importing registers what can be drawn)
from tests.cases.domains import BATCH
from tests.oracle import TARGETS, Arrays, mutant, ort_runner, to_model
from tests.random_networks import LAYER_PROPOSALS, LOSS_PROPOSALS, ROW_PROPOSALS, Declared, Generator
from tests.random_rows import of_row
from tests.random_smaller import at, places, shrunk
from tests.random_values import drawn, moment_of
from tests.torch_layers import Evaluated, evaluate
from tests.torch_layers_base import TWINS, Run, Tensor
from tests.torch_layers_rows import ONLY_ROWS, by_row, stands

Engine = Callable[..., dict[ir.Value, ir.Value]]

NETWORKS = 500
EVALUATED = range(0, NETWORKS, 5)
WITH_ROWS = 8  # for each type of layer; the oracles of rows may be for batches of one size
# Float32 through some ten layers, each of which may enlarge rounding (6e-8) several times; 100 times less than a rule
# that is wrong by 1 %.
BOUND = 1e-4
# A gradient of less than this share of the network's largest one counts as that large. What cancels exactly, such as
# the gradient of a bias before a normalization, leaves rounding of what it is the sum of: of 80 equal cotangents, after
# another normalization before, 5e-6 of the largest gradient was measured. A rule wrong by 1 % still shows in every
# gradient above 1/2000 of the largest.
SHARE = 0.05
# Values below this count as that large, for the same reason.
SMALL = 0.05
# Nearer than this to a kink, relative to the largest value there, float32 may be on its other side.
NEAR = 1e-5
WRONG = "wrong"
FEATURES = ("side", "param", "loss_weight", "bottom")


@dataclass(frozen=True)
class Compiler:
    """What is under test: the rules, the engine and the target of the lowerings."""

    table: Table = field(default_factory=lambda: VJP)
    gradients: Engine = gradients
    target: Target = "cpu"


PLAIN = Compiler()


@dataclass(frozen=True)
class Outcome:
    """How near a network comes to a kink, the error of each tensor, and whether each gradient is zero.

    `broken` is the exception where there was one.
    """

    distance: float
    errors: dict[str, float]
    zero: dict[str, bool] = field(default_factory=dict)
    broken: str = ""

    @property
    def counts(self) -> bool:
        """Whether the network is far enough from kinks to be compared."""
        return self.distance > NEAR

    @property
    def message(self) -> str:
        """What is wrong, nothing if the network is right, or too near to a kink; NaN is wrong."""
        wrong = {name: error for name, error in self.errors.items() if self.counts and not error < BOUND}
        return self.broken or ", ".join(f"{name} by {error:.2g}" for name, error in wrong.items())

    @property
    def kind(self) -> str:
        """What sort of mistake it is."""
        return self.broken.partition(":")[0] or (WRONG if self.message else "")


@cache
def spec_of(seed: int) -> Declared:
    """Return the spec of a seed; each type of layer is the guest of some seeds."""
    kinds = list(LAYER_PROPOSALS)
    return Generator(seed).spec(kinds[seed % len(kinds)])


def loaded(spec: Declared) -> Loaded:
    """Load a spec that is given as data."""
    return load(parse_tree(json.dumps(spec), "random.yaml"))


def batch_of(seed: int, spec: Declared, size: int) -> Arrays:
    """Return a batch of some size."""
    return {
        name: drawn(seed, name, [size, *declared.get("shape", [])], declared.get("classes"))
        for name, declared in spec["inputs"].items()
    }


def state_of(seed: int, tensors: Iterable[StateTensor]) -> Arrays:
    """Return the state; names and shapes are netc's."""
    moment = moment_of(seed)
    known = {"step": moment.step, "max_steps": moment.max_steps, "seed": [moment.seed]}
    return {t.name: np.array(known[t.name]) if t.name in known else drawn(seed, t.name, t.shape) for t in tensors}


def in_torch(
    seed: int, declared: Loaded, batch: Arrays, train: bool = True
) -> tuple[Evaluated, dict[str, torch.Tensor]]:
    """Compute a network in PyTorch in float64; also return what it can be differentiated by."""
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    # Losses choose by targets of 0 and 1, so that there is no slope along them.
    chosen = {name: value for name, value in inputs.items() if value.is_floating_point() and "binary" not in name}
    leaves = {name: value.requires_grad_() for name, value in chosen.items()}

    def state(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if ".running_" in name:
            return torch.from_numpy(drawn(seed, name, shape))
        if name not in leaves:
            leaves[name] = torch.from_numpy(drawn(seed, name, shape)).requires_grad_()
        return leaves[name]

    return evaluate(declared.spec, inputs, state, moment_of(seed), train), leaves


def outcome_of(seed: int, spec: Declared, compiler: Compiler = PLAIN) -> Outcome:
    """Compute a network with netc and with PyTorch, and compare.

    Raises:
        SpecError: the spec is no valid one.
    """
    declared = loaded(spec)
    network = lower(declared, "train", spec["data"]["batch_size"])
    net, batch = network.net, batch_of(seed, spec, spec["data"]["batch_size"])
    by_torch, leaves = in_torch(seed, declared, batch)
    expected = {term.name: by_torch.terms[term.name] for term in network.terms if term.name != "total"}
    expected |= {"total": by_torch.total, **{f"{name}.next": value for name, value in by_torch.run.statistics.items()}}
    total = by_torch.total + 0.0 * sum(value.sum() for value in leaves.values())  # on which it may not depend at all
    slopes = torch.autograd.grad(total, list(leaves.values()))

    tensors = {**net.inputs, **network.batch}
    wrt = [tensors[name] for name in leaves]
    parameters = {tensor.name for tensor in net.state.values() if tensor.role == "parameter"}
    assert parameters == leaves.keys() - batch.keys()
    assert expected.keys() == {term.name for term in network.terms} | {f"{name}.next" for name in net.updates}
    outputs = {term.name: term.mean.value for term in network.terms}
    outputs |= {f"{name}.next": value for name, value in net.updates.items()}
    found = compiler.gradients(net.g, compiler.table, outputs["total"], wrt)
    outputs |= {f"grad:{x.name}": value for x, value in found.items()}
    for name, value in outputs.items():
        net.g.output(name, value)
    run = ort_runner(to_model(optimize_step(net.g.graph, Platform(compiler.target)), target=compiler.target))
    result = run({**state_of(seed, net.state.values()), **batch})

    values = {name: value.detach().numpy() for name, value in expected.items()}
    grads = {f"grad:{name}": slope.numpy() for name, slope in zip(leaves, slopes, strict=True)}
    largest = max(float(np.abs(grad).max()) for grad in grads.values())
    errors = {name: _error(result[name], value, _summed(by_torch, name)) for name, value in values.items()}
    for name, grad in grads.items():
        errors[name] = _error(result.get(name, np.zeros_like(grad)), grad, SHARE * largest)
    return Outcome(by_torch.run.distance, errors, {name: not grad.any() for name, grad in grads.items()})


def _summed(found: Evaluated, name: str) -> float:
    """Return the size of what a value is the sum of, where that may cancel."""
    top = found.tops.get(name.removesuffix(".loss")) if name.endswith(".loss") else None
    return SMALL if top is None else max(SMALL, float(top.detach().abs().sum()) / len(top))


def _error(actual: np.ndarray, expected: np.ndarray, least: float) -> float:
    """Return the largest difference relative to the largest expected magnitude, or to `least`."""
    assert actual.shape == expected.shape
    scale = max(float(np.abs(expected).max()), least, 1e-30)
    return float(np.abs(actual - expected).max()) / scale


def evaluation_of(seed: int, spec: Declared, size: int = 5) -> Outcome:
    """Compare the programs for evaluation and inference, of a batch of another size unless one is given."""
    declared = loaded(spec)
    artifact = build(declared)
    batch, state = batch_of(seed, spec, size), state_of(seed, artifact.state)
    by_torch, _ = in_torch(seed, declared, batch, train=False)
    programs, models = artifact.programs, artifact.models()
    fold = ort_runner(models["fold"])(state) if programs["fold"].outputs else {}
    parameters = {programs["fold"].outputs[name]["feeds"]: value for name, value in fold.items()}
    feeds = {"eval": {**state, **batch}, "infer": {**parameters, **batch}}
    results = {name: ort_runner(models[name])(feed) for name, feed in feeds.items() if programs[name].outputs}
    expected = {**by_torch.tops, **by_torch.terms, **by_torch.counts, "total": by_torch.total}
    errors = {
        f"{program}: {name}": _error(result[name], expected[name].detach().numpy(), _summed(by_torch, name))
        for program, result in results.items()
        for name, entry in programs[program].outputs.items()
        if entry["role"] != "weight"
    }
    # What is positive in training, such as what a logarithm reads, may be negative here.
    finite = all(bool(torch.isfinite(value).all()) for value in expected.values())
    return Outcome(by_torch.run.distance if finite else 0.0, errors)


Check = Callable[[int, Declared], Outcome]


def attempt(seed: int, spec: Declared, check: Check = outcome_of) -> Outcome:
    """Return the outcome of a check, also where it breaks: whatever the exception is, a user would get it."""
    try:
        return check(seed, spec)
    except Exception as error:  # noqa: BLE001
        return Outcome(math.inf, {}, broken=f"{type(error).__name__}: {error}")


def report(seed: int, check: Check = outcome_of, spec: Declared | None = None) -> str:
    """Return what is wrong with a network, that of the seed unless given, and the smallest spec that shows the like."""
    spec = spec_of(seed) if spec is None else spec
    first = attempt(seed, spec, check)
    spec = shrunk(spec, lambda candidate: attempt(seed, candidate, check).kind == first.kind)
    text = yaml.safe_dump(spec, sort_keys=False, default_flow_style=None)
    return f"seed {seed}: {first.message}\nsmaller: {attempt(seed, spec, check).message}\n{text}"


def types_of(spec: Declared) -> list[str]:
    """Return the types of the layers of a network."""
    return [at(spec, place)["type"] for place in places(spec)]


# ------------------------------------------------------------------------------------------------------------- tests


def test_every_registered_layer_has_a_twin_or_a_row() -> None:
    assert TWINS.keys() == LAYERS.members.keys()
    assert all(stands(kind) for kind in ONLY_ROWS)


def test_every_type_can_be_drawn() -> None:
    metrics = {name for name, cls in LAYERS.members.items() if issubclass(cls, Metric)}
    assert LAYER_PROPOSALS.keys() | LOSS_PROPOSALS.keys() | metrics | set(ONLY_ROWS) == LAYERS.members.keys()


def test_every_type_appears_in_several_networks() -> None:
    found: Counter[str] = Counter()
    for seed in range(NETWORKS):
        spec = spec_of(seed)
        found.update(set(types_of(spec)))
        found.update({key for place in places(spec) for key in at(spec, place) if key in FEATURES})
        found.update({key for place in places(spec) for entry in at(spec, place).get("param", []) for key in entry})
        found["fuse"] += "fuse" in spec
    wanted = [*(LAYERS.members.keys() - ONLY_ROWS), *FEATURES, "fuse", "name", "l1", "l2"]
    assert not {name: found[name] for name in wanted if found[name] < 5}


def test_losses_metrics_statistics_and_gradients_agree_with_pytorch() -> None:
    outcomes, reports = [], []
    for seed in range(NETWORKS):
        check = partial(outcome_of, compiler=Compiler(target=TARGETS[max(0, seed % 10 - 7)]))
        outcomes.append(attempt(seed, spec_of(seed), check))
        if outcomes[-1].message:
            reports.append((seed, check))
    assert not reports, "\n".join([f"wrong: {[seed for seed, _ in reports]}", *(report(*bad) for bad in reports[:3])])
    zero = [flag for outcome in outcomes for flag in outcome.zero.values()]
    assert sum(zero) < 0.2 * len(zero), "most gradients have to say something"
    assert sum(not outcome.counts for outcome in outcomes) < 0.15 * NETWORKS, "most networks have to be compared"


def test_evaluation_and_inference_agree_with_pytorch() -> None:
    outcomes = {seed: attempt(seed, spec_of(seed), evaluation_of) for seed in EVALUATED}
    reports = [seed for seed, outcome in outcomes.items() if outcome.message]
    assert not reports, "\n".join([f"wrong: {reports}", *(report(seed, evaluation_of) for seed in reports[:3])])
    assert sum(not outcome.counts for outcome in outcomes.values()) < 0.2 * len(EVALUATED)


# --------------------------------------------------------------------------------------- rows in the place of twins


def stand_in(kind: str, monkeypatch: pytest.MonkeyPatch, factor: float = 1.0) -> None:
    """Let rows draw and compute a type, times a factor; its own twin, if it has one, computes what no row declares."""
    own = TWINS[kind]

    def computed(layer: Layer, run: Run, x: Sequence[Tensor]) -> Tensor:
        try:
            return by_row(layer, run, x) * factor
        except LookupError:
            if kind in ONLY_ROWS:
                raise
            return own(layer, run, x)

    monkeypatch.setitem(TWINS, kind, computed)
    monkeypatch.setitem(ROW_PROPOSALS, kind, of_row)


@pytest.mark.parametrize("kind", [*ONLY_ROWS, "PReLU", "BatchNorm", "Eltwise", "HingeLoss", "Accuracy"])
def test_layers_agree_with_their_rows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(kind, monkeypatch)
    specs = {seed: Generator(seed, BATCH).spec(kind) for seed in range(WITH_ROWS)}
    assert sum(kind in types_of(spec) for spec in specs.values()) > 0.7 * WITH_ROWS
    compared = 0
    for seed, spec in specs.items():
        train = partial(outcome_of, compiler=Compiler(target=TARGETS[seed % len(TARGETS)]))
        for check in (train, partial(evaluation_of, size=BATCH)):
            outcome = attempt(seed, spec, check)
            assert not outcome.message, report(seed, check, spec)
            compared += outcome.counts
    assert compared > 0.7 * 2 * WITH_ROWS


@pytest.mark.parametrize("kind", ["PReLU", "Accuracy"])
def test_a_layer_unlike_its_row_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(kind, monkeypatch, factor=1.01)
    outcomes = (attempt(seed, Generator(seed, BATCH).spec(kind)) for seed in range(WITH_ROWS))
    assert any(outcome.kind == WRONG for outcome in outcomes)


@pytest.mark.parametrize("kind", ["GaussianNoise", "Embed", "Slice", "Silence", "ConfusionMatrix"])
def test_what_no_row_can_stand_in_for_is_said(kind: str) -> None:
    """Randomness, inputs that are no numbers, several tops, none, and a count instead of a mean."""
    with pytest.raises(LookupError, match=f"{kind} has neither a PyTorch twin nor a row that could be one: add to"):
        stands(kind)


# --------------------------------------------------------------------------------------------- the checks are checked


def scaled(op: str, index: int) -> Table:
    """Return the table with one rule wrong by 1 %."""
    rules = list(VJP[op])
    right = rules[index]
    assert right is not None
    rules[index] = lambda g, site, dy: right(g, site, dy) * 1.01
    return {**VJP, op: tuple(rules)}


def first_found(check: Check, kind: str | None = None, among: int = 12) -> int | None:
    """Return the first seed whose network shows a fault, of so many that have a layer of some type."""
    seeds = [seed for seed in range(NETWORKS) if kind is None or kind in types_of(spec_of(seed))][:among]
    return next((seed for seed in seeds if attempt(seed, spec_of(seed), check).kind == WRONG), None)


@pytest.mark.parametrize(
    ("kind", "op", "index"),
    [
        ("Concat", "Concat", 0),
        ("Slice", "Slice", 0),
        ("Permute", "Transpose", 0),
        ("Deconvolution", "ConvTranspose", 1),
        ("Convolution", "Conv", 1),
        ("Maxout", "ReduceMax", 0),
        ("Softmax", "Softmax", 0),
        ("Reduction", "ReduceSum", 0),
    ],
)
def test_a_rule_wrong_by_a_hundredth_is_found(kind: str, op: str, index: int) -> None:
    check = partial(outcome_of, compiler=Compiler(scaled(op, index)))
    assert first_found(check, kind) is not None


def test_an_engine_that_overwrites_is_found(tmp_path: Path) -> None:
    overwriting = mutant(tmp_path, engine, ("dx if known is None else known + dx", "dx"))
    assert first_found(partial(outcome_of, compiler=Compiler(gradients=overwriting.gradients))) is not None


@pytest.mark.parametrize("kind", ["Swish", "LRN", "DiceLoss", "BatchNorm"])
def test_a_layer_unlike_its_twin_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is the oracle that is wrong, which comes to the same."""
    right = TWINS[kind]
    monkeypatch.setitem(TWINS, kind, lambda layer, run, x: right(layer, run, x) * 1.01)
    assert first_found(outcome_of, kind) is not None


def test_a_missing_rule_is_shown_by_a_small_spec() -> None:
    table = {name: rules for name, rules in VJP.items() if name != "Erf"}
    check = partial(outcome_of, compiler=Compiler(table))
    broken = next(seed for seed in range(NETWORKS) if attempt(seed, spec_of(seed), check).broken)
    spec = yaml.safe_load(report(broken, check).partition("\n")[2].partition("\n")[2])
    assert "GELU" in [layer["type"] for layer in spec["layers"]]
    assert len(spec["layers"]) <= 3, "it, a loss, and what makes its targets or gives it a parameter"
