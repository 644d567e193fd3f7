"""Schedules of a side's weight at the steps where they jump, in the float32 of a training step."""

import numpy as np
import onnx_ir as ir
import pytest

from netc.graph import GraphBuilder
from netc.layers.schedules import DsnSchedule, Schedule, StepOffSchedule
from tests.oracle import Arrays, ort_runner, to_model


def weights(schedule: Schedule, steps: np.ndarray, max_steps: int) -> np.ndarray:
    """Return the weight at each of some steps."""
    g = GraphBuilder("schedule", ir.DataType.FLOAT)
    step, planned = g.input("step", ir.DataType.INT64, steps.shape), g.input("max_steps", g.dtype, [])
    weight = schedule.value(g, lambda: g.Div(g.Cast(step, to=g.dtype), planned))
    assert isinstance(weight, ir.Value)
    g.output("weight", weight)
    feed: Arrays = {"step": steps, "max_steps": np.array(max_steps)}
    return ort_runner(to_model(g.graph))(feed)["weight"]


@pytest.mark.parametrize("epochs", [3, 10, 100, 300, 1000])
@pytest.mark.parametrize("steps_an_epoch", [1, 7, 391, 1875])
def test_dsn_weights_change_with_the_first_step_of_an_epoch(epochs: int, steps_an_epoch: int) -> None:
    schedule = DsnSchedule(start=1.0, epochs=epochs, factor=1.0)
    firsts = np.arange(epochs) * steps_an_epoch
    expected = np.cumprod([1.0, *(1.0 - t / epochs for t in range(1, epochs))])
    expected[expected < np.finfo(np.float32).tiny] = 0.0
    planned = epochs * steps_an_epoch
    assert weights(schedule, firsts, planned) == pytest.approx(expected, rel=1e-6)
    if steps_an_epoch > 1:
        lasts = firsts + steps_an_epoch - 1
        assert weights(schedule, lasts, planned) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("until", [0.1, 0.3, 0.5, 0.7, 0.8])
@pytest.mark.parametrize("max_steps", [10, 70, 3910, 1_000_000])
def test_step_off_leaves_with_the_right_step(until: float, max_steps: int) -> None:
    schedule = StepOffSchedule(start=0.5, until=until)
    first_without = round(until * max_steps)
    steps = np.array([first_without - 1, first_without])
    assert weights(schedule, steps, max_steps).tolist() == [0.5, 0.0]
