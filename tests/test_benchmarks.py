"""The benchmark of a step finds an engine that does less; its figures are computed as its table says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compile import by_doubling
from benchmarks.step import CHECKED, Result, Round, table

ROOT = Path(__file__).parents[1]
FALLING = [2.0 * 0.9**step for step in range(CHECKED)]


def result(losses: list[float]) -> Result:
    rounds = [Round({"cpu": 30.0, "eager": 20.0}, 100.0), Round({"cpu": 10.0, "eager": 20.0}, 120.0)]
    rounds.append(Round({"cpu": 20.0, "eager": 20.0}, 110.0))
    return Result("name", "Title", 600_000_000, rounds, {"cpu": 3 << 20}, {"cpu": losses, "eager": FALLING})


def test_figures() -> None:
    one = result(FALLING)
    assert one.mistakes() == []
    assert one.milliseconds("cpu") == 20.0
    assert one.ratios("cpu", "eager") == [0.5, 1.0, 1.5]
    assert one.share("cpu") == pytest.approx(0.25)  # 0.6 GFLOP in 20 ms are 30 GFLOP/s, of 120
    cells = table([one]).splitlines()[2]
    assert cells == "| Title | 20.00 | 20.00 | **1.00** (0.50 to 1.50) | 25% | 25% | 3 | 120 | 0e+00 |"


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([*FALLING[:-1], FALLING[-1] + 0.0021], "losses differ by 1.0e-03"),
        ([*FALLING[:-1], float("nan")], "losses differ by nan"),
        ([2.0] * CHECKED, "it does not train"),
    ],
)
def test_an_engine_that_does_less_is_found(losses: list[float], said: str) -> None:
    assert any(said in mistake for mistake in result(losses).mistakes())


def test_growth() -> None:
    assert by_doubling(3.0, 12.0, (10, 40)) == pytest.approx(2.0)


def test_the_smallest_workload(tmp_path: Path) -> None:
    """From the command line: both engines train alike, and the record has every round."""
    options = ["mlp", "--engines", "cpu,eager", "--rounds", "2", "--steps", "1", "--threads", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "step.py"), *options, "--json", str(tmp_path / "record")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "record").read_text())["results"]
    assert len(found["rounds"]) == 2
    assert set(found["losses"]) == set(found["memory"]) == {"cpu", "eager"}
    assert found["flops"] == 6 * 256 * (64 * 128 + 128 * 128 + 128 * 10)
