"""Fillers: distributions of large draws, and that a draw depends on seed and name alone."""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from netc.layers.fillers import FILLERS, Filler
from tests.cases.fillers import FILLER_CASES, FORMULA_CASES, FillerCase, FormulaCase
from tests.cases.layers import SCORES
from tests.test_layers import lowered

ids = pytest.mark.parametrize("row", FILLER_CASES, ids=lambda row: row.id)
# Draws are a fixed function of the seed, so that these bounds were met once and for all; a generator that were truly
# random would fail a row with a probability of about 1e-6 in each of them.
NORMAL_BOUND = NormalDist().inv_cdf(1 - 0.5e-6)
KOLMOGOROV_BOUND = 2.7  # 2 exp(-2 x^2) = 1e-6
SEED = 3


def test_every_filler_has_a_row() -> None:
    rows = [row.given["type"] for row in FILLER_CASES] + [row.given["type"] for row in FORMULA_CASES]
    assert set(rows) == set(FILLERS.members)


@ids
def test_values_are_distributed_as_the_formula_says(row: FillerCase) -> None:
    drawn = FILLERS.parse(row.given).fill(SEED, "it.weight", row.shape)
    assert drawn.shape == row.shape
    assert drawn.dtype == np.float64
    if row.cumulative is None:
        assert (drawn == row.mean).all()
        return
    values = np.sort(drawn.reshape(-1))
    n = values.size
    expected = row.cumulative(values)
    distance = np.abs(np.concatenate([expected - np.arange(n) / n, np.arange(1, n + 1) / n - expected])).max()
    assert distance * n**0.5 < KOLMOGOROV_BOUND
    z = (values - row.mean) / row.std
    assert abs(z.mean()) * n**0.5 < NORMAL_BOUND
    # The variance of z^2 is kurtosis - 1: at most 2, for the normal distribution.
    assert abs((z**2).mean() - 1) * (n / 2) ** 0.5 < NORMAL_BOUND
    assert row.cumulative(values[:1])[0] > 0.0
    assert row.cumulative(values[-1:])[0] < 1.0, "a value is out of range"


@pytest.mark.parametrize("row", FORMULA_CASES, ids=lambda row: row.id)
def test_values_hang_together_as_the_formula_says(row: FormulaCase) -> None:
    drawn = FILLERS.parse(row.given).fill(SEED, "it.weight", row.shape)
    assert drawn.shape == row.shape
    assert drawn.dtype == np.float64
    assert row.holds(drawn, FILLERS.parse("uniform").fill(SEED, "it.weight", row.shape))


def test_orthogonal_weights_depend_on_seed_and_name() -> None:
    filler = FILLERS.parse("orthogonal")
    first = filler.fill(0, "a.weight", (8, 8))
    assert np.array_equal(first, filler.fill(0, "a.weight", (8, 8)))
    assert np.abs(first - filler.fill(1, "a.weight", (8, 8))).max() > 0.1
    assert np.abs(first - filler.fill(0, "b.weight", (8, 8))).max() > 0.1


@ids
def test_neighbours_are_independent(row: FillerCase) -> None:
    if row.cumulative is None:
        return
    z = (FILLERS.parse(row.given).fill(SEED, "it.weight", row.shape).reshape(-1) - row.mean) / row.std
    for lag in (1, 2, 5, 25):
        assert abs((z[lag:] * z[:-lag]).sum()) / (z.size - lag) ** 0.5 < NORMAL_BOUND, lag


@ids
def test_a_draw_depends_on_seed_and_name_alone(row: FillerCase) -> None:
    def draw(seed: int, name: str) -> np.ndarray:
        return FILLERS.parse(dict(row.given)).fill(seed, name, row.shape)

    first = draw(0, "conv1.weight")
    assert np.array_equal(first, draw(0, "conv1.weight"))
    if row.cumulative is not None:
        others = [draw(1, "conv1.weight"), draw(0, "conv2.weight"), draw(0, "conv1.weigh"), draw(10, "conv1.weight")]
        for other in others:
            assert np.mean(first == other) < 1e-3
            assert abs(np.corrcoef(first.reshape(-1), other.reshape(-1))[0, 1]) * first.size**0.5 < NORMAL_BOUND


def test_draws_stay_the_same_for_ever() -> None:
    """A run resumes, and a paper's figures repeat, only while a seed means the same weights."""
    drawn = FILLERS.parse("uniform").fill(0, "conv1.weight", (3,))
    assert drawn.tolist() == GOLDEN


GOLDEN = [0.32764763828295707, 0.13471884844191573, 0.9425372483042662]

LAYERS: list[dict[str, Any]] = [
    {"name": "ip1", "type": "InnerProduct", "num_output": 5},
    {"name": "ip2", "type": "InnerProduct", "num_output": 4, "weight_filler": "gaussian"},
    {"name": "loss", "type": "SoftmaxWithLoss"},
]


def initial(layers: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    state = lowered(layers, SCORES, "train").net.state.values()
    return {t.name: t.filler.fill(SEED, t.name, t.shape) for t in state}


def test_adding_a_layer_changes_no_other() -> None:
    added: list[dict[str, Any]] = [
        {"name": "new", "type": "InnerProduct", "num_output": 4},
        {"name": "bn", "type": "BatchNorm"},
        *LAYERS,
    ]
    before, after = initial(LAYERS), initial(added)
    assert set(before) < set(after)
    for name, value in before.items():
        assert np.array_equal(value, after[name]), name


def filler_of(behind: list[dict[str, Any]], given: Any = None) -> Filler:
    """Return the filler of a layer with the layers `behind` it."""
    first: dict[str, Any] = {"name": "it", "type": "InnerProduct", "num_output": 4}
    layers = [first | ({"weight_filler": given} if given else {}), *behind, {"name": "loss", "type": "SoftmaxWithLoss"}]
    return lowered(layers, SCORES, "train").net.state["it.weight"].filler


@pytest.mark.parametrize(
    ("behind", "given", "kind"),
    [
        (["ReLU"], None, "msra"),
        (["BatchNorm", "ReLU"], None, "msra"),
        (["Dropout", "BatchNorm", "ReLU"], None, "msra"),
        (["LayerNorm", "Scale", "Bias", "GELU"], None, "msra"),
        (["LayerNorm", "PReLU"], None, "msra"),
        (["SELU"], None, "xavier"),
        ([], None, "xavier"),
        (["TanH", "ReLU"], None, "xavier"),
        (["ReLU"], "xavier", "xavier"),
        (["ReLU"], {"type": "gaussian", "std": 0.1}, "gaussian"),
    ],
)
def test_weights_before_a_rectifier_default_to_msra(behind: list[str], given: Any, kind: str) -> None:
    filler = filler_of([{"name": f"l{i}", "type": each} for i, each in enumerate(behind)], given)
    assert filler.type == kind


def test_a_rectifier_behind_a_skip_counts() -> None:
    skip: list[dict[str, Any]] = [
        {"name": "sum", "type": "Eltwise", "bottom": ["it", "image"]},
        {"name": "relu", "type": "ReLU"},
    ]
    assert filler_of(skip).type == "msra"
