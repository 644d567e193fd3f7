"""The counter-based generator: equal to its numpy twin on every runtime, and random as far as masks show.

Masks are a fixed function of the seeds below, so that a bound once met stays met. The bounds are those at which a truly
random generator would fail one test in about a million.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from netc.graph import GraphBuilder, counter_rng
from netc.graph.counter_rng import near_square
from tests.numpy_rng import keep_mask, random_bits
from tests.oracle import Runner, mutant, ort_runner, reference_runner, to_model

ALARM = 1e-6
SEEDS, STEPS, NAMES = (0, 1, 77, 2**32 - 1), range(16), ("drop1", "drop2")
SHAPE = (128, 4096)
RATIOS = (0.5, 0.1)


def graph_of(names: dict[str, tuple[int, ...]], ratio: float | None, module: ModuleType = counter_rng) -> ir.Graph:
    """Build a graph that draws bits (`ratio` None) or masks of several names."""
    g = GraphBuilder("random")
    rng = module.CounterRNG(g, g.input("seed", ir.DataType.UINT32, [1]), g.input("step", ir.DataType.INT64, []))
    for name, shape in names.items():
        g.output(name, rng.bits(name, shape) if ratio is None else rng.keep(name, shape, ratio))
    return g.graph


def feed(seed: int, step: int) -> dict[str, np.ndarray]:
    return {"seed": np.array([seed], np.uint32), "step": np.array(step, np.int64)}


EXACT = {"a": (7,), "b": (1,), "c": (3, 5), "conv1/drop": (2, 3, 4, 5), "e": (64, 1), "f": (2, 1, 33), "g": (1, 40)}


@pytest.mark.parametrize("runner", [ort_runner, reference_runner], ids=["ort", "onnx.reference"])
@pytest.mark.parametrize("ratio", [None, 0.5, 0.1, 0.999])
def test_graph_equals_the_numpy_twin(runner: Callable[..., Runner], ratio: float | None) -> None:
    run = runner(to_model(graph_of(EXACT, ratio)))
    # 2^32 + 3: a step counter is int64, of which the hash takes the lower half.
    for seed, step in ((0, 0), (1, 0), (0, 1), (2**32 - 1, 2**31), (77, 123_456_789), (5, 2**32 + 3)):
        result = run(feed(seed, step))
        for name, shape in EXACT.items():
            at = seed, step % 2**32, name, shape
            twin = random_bits(*at) if ratio is None else keep_mask(*at, ratio)
            assert np.array_equal(result[name], twin), at


def test_normal_numbers_have_the_moments_of_n01() -> None:
    g = GraphBuilder("random")
    rng = counter_rng.CounterRNG(g, g.input("seed", ir.DataType.UINT32, [1]), g.input("step", ir.DataType.INT64, []))
    g.output("noise", rng.normal("noise", SHAPE))
    run = ort_runner(to_model(g.graph))
    for seed in SEEDS:
        x = run(feed(seed, 0))["noise"].astype(np.float64)
        # Variances of the means of x, x^2, x^3 and x^4 over n numbers are 1, 2, 15 and 96 over n.
        for power, (mean, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}.items():
            far = (np.mean(x**power) - mean) / np.sqrt(variance / x.size)
            assert abs(far) < NormalDist().inv_cdf(1 - ALARM / 2), (seed, power)
        for lag in (x[:, 1:] * x[:, :-1], x[1:] * x[:-1]):
            assert abs(np.mean(lag)) * np.sqrt(lag.size) < NormalDist().inv_cdf(1 - ALARM / 2), seed


@pytest.mark.parametrize(
    ("shape", "split"),
    [((7,), (1, 7)), ((3, 5), (3, 5)), ((2, 3, 4, 5), (6, 20)), ((64, 1), (64, 1)), ((128, 4096), (128, 4096))],
)
def test_constants_are_few(shape: tuple[int, ...], split: tuple[int, int]) -> None:
    rows, columns = near_square(shape)
    assert rows * columns == np.prod(shape)
    assert rows + columns == sum(split)


@pytest.mark.parametrize("ratio", [0.0, 2**-33, 1.0 - 2**-40])
def test_extreme_ratios(ratio: float) -> None:
    mask = ort_runner(to_model(graph_of({"a": (50, 50)}, ratio)))(feed(0, 0))["a"]
    assert mask.mean() == (0.0 if ratio > 0.5 else 1.0)


# ----------------------------------------------------------------------------------------------------- statistics


def standardised(mask: np.ndarray, ratio: float) -> np.ndarray:
    """Return mean 0 and variance 1 for a mask whose elements are kept with probability 1 - ratio."""
    z: np.ndarray = (mask - (1 - ratio)) / (ratio * (1 - ratio)) ** 0.5
    return z


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return a standard normal number for independent standardised masks."""
    return float(np.sum(a * b) / a.size**0.5)


def byte_chi_square(mask: np.ndarray, ratio: float) -> float:
    """Return chi-square of the bytes that eight neighbours in a row make, as a standard normal number.

    Wilson & Hilferty: the cube root of chi-square is nearly normal.
    """
    found = np.bincount(np.packbits(mask, axis=1).reshape(-1), minlength=256)
    kept = np.array([value.bit_count() for value in range(256)])
    expected = found.sum() * (1 - ratio) ** kept * ratio ** (8 - kept)
    # Bytes too rare for the approximation are counted as one.
    rare = expected < 5
    groups = [(found[~rare], expected[~rare]), (found[rare].sum(keepdims=True), expected[rare].sum(keepdims=True))]
    chi = sum(float(np.sum((f - e) ** 2 / e)) for f, e in groups if e.sum() > 0)
    return normal_of_chi_square(chi, int((~rare).sum()) + bool(rare.any()) - 1)


def normal_of_chi_square(chi: float, freedom: int) -> float:
    scale = 2 / (9 * freedom)
    return float(((chi / freedom) ** (1 / 3) - (1 - scale)) / scale**0.5)


def statistics(
    ratio: float, shape: tuple[int, int] = SHAPE, module: ModuleType = counter_rng
) -> dict[str, list[float]]:
    """Return numbers that are standard normal if the masks are random, several for each question."""
    run = ort_runner(to_model(graph_of(dict.fromkeys(NAMES, shape), ratio, module)))
    found: dict[str, list[float]] = {}

    def note(question: str, value: float) -> None:
        found.setdefault(question, []).append(value)

    for seed in SEEDS:
        before = None
        for step in STEPS:
            masks = run(feed(seed, step))
            z, other = (standardised(masks[name], ratio) for name in NAMES)
            note("mean", float(z.sum() / z.size**0.5))
            for lag in (1, 2, 16):
                note(f"along rows, lag {lag}", correlation(z[:, lag:], z[:, :-lag]))
                note(f"along columns, lag {lag}", correlation(z[lag:], z[:-lag]))
            # Products of the corners of rectangles betray a mask made of one number a row and one a column.
            note("rectangles", correlation(z[1:, 1:] * z[:-1, :-1], z[1:, :-1] * z[:-1, 1:]))
            # Sums of rows and columns: as scattered as independent elements make them.
            for axis, length in enumerate(shape):
                sums = z.sum(axis) / length**0.5
                note(f"sums along axis {axis}", normal_of_chi_square(float(np.sum(sums**2)), sums.size))
            note("layer to layer", correlation(z, other))
            note("bytes", byte_chi_square(masks[NAMES[0]], ratio))
            if before is not None:
                note("step to step", correlation(z, before))
            before = z
    for name in NAMES:
        draws = [standardised(run(feed(seed, 0))[name], ratio) for seed in SEEDS]
        for a, b in itertools.pairwise(draws):
            note("seed to seed", correlation(a, b))
    return found


def suspicious(found: dict[str, list[float]]) -> dict[str, str]:
    """Return the questions whose largest number, or whose sum of squares, is beyond the bounds."""
    tests = 2 * len(found)
    far = {}
    for question, numbers in found.items():
        largest = max(map(abs, numbers))
        bound = NormalDist().inv_cdf(1 - ALARM / tests / len(numbers) / 2)
        spread = normal_of_chi_square(float(np.sum(np.square(numbers))), len(numbers))
        if largest > bound or abs(spread) > NormalDist().inv_cdf(1 - ALARM / tests / 2):
            far[question] = f"largest |z| {largest:.1f} (bound {bound:.1f}), spread {spread:.1f}"
    return far


@pytest.mark.parametrize("ratio", RATIOS)
def test_masks_look_random(ratio: float) -> None:
    assert suspicious(statistics(ratio)) == {}


# Generators that are a little worse, and the question that betrays each. The final square alone betrays itself in no
# mask: with constants from Philox the rank-one product is as good; with constants in sequence it is not.
SEQUENCE = ("np.random.Philox(key=key).random_raw(rows + columns)", "np.arange(rows + columns, dtype=np.uint64) << 33")
NO_SQUARE = ("            x = x * x + x\n", "")
PLANTED: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "constants in sequence": ("bytes", [SEQUENCE]),
    "constants in sequence, no final square": ("bytes", [SEQUENCE, NO_SQUARE]),
    "same constants for every name": ("layer to layer", [("name.encode()", '"same".encode()')]),
    "step forgotten": ("step to step", [("* SEED_MULTIPLIER + step", "* SEED_MULTIPLIER + step * 0")]),
    "seed forgotten": ("seed to seed", [("self._mix(self._seed + SEED_OFFSET)", "self._mix(self._seed * 0)")]),
    "columns alike": ("sums along axis 1", [("g.constant(of_columns) * k3", "g.constant(of_columns * 0) * k3")]),
    "ratio off by a hundredth": ("mean", [("int(ratio * 2**32)", "int(ratio * 1.01 * 2**32)")]),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_worse_generator_is_caught(tmp_path: Path, fault: str) -> None:
    question, changes = PLANTED[fault]
    far = suspicious(statistics(0.5, (128, 1024), mutant(tmp_path, counter_rng, *changes)))
    assert question in far, far


def test_the_upper_half_of_each_number_is_uniform() -> None:
    """Comparisons look at the upper bits; the lower ones are not uniform (x^2 + x is even) and nobody may use them."""
    run = ort_runner(to_model(graph_of({"drop1": SHAPE}, None)))
    draws = [run(feed(seed, step))["drop1"] for seed in SEEDS for step in STEPS]
    for shift in (16, 24):
        found = sum(np.bincount((x.reshape(-1) >> shift) & 255, minlength=256) for x in draws)
        expected = np.sum(found) / 256
        chi = float(np.sum((found - expected) ** 2) / expected)
        assert abs(normal_of_chi_square(chi, 255)) < NormalDist().inv_cdf(1 - ALARM / 2)
