"""Training killed with SIGKILL at random moments ends in the same bytes; benchmarks/soak.py does it at length."""

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


def test_killed_and_resumed(tmp_path: Path) -> None:
    command = [sys.executable, str(SOAK), "--kills", "6", "--seed", "7", "--json", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results").read_text())
    for result in results:
        assert sum(result["kills"].values()) == 1
        assert result["wrong"] == []
        assert result["runs"] >= 1
    found = {result["workload"]: result for result in results}
    assert found["plateau and average of weights"]["rates"] > 1
    assert found["early stopping"]["steps"] < 1000  # of 8900
