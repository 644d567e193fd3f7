"""How many CPUs a process may use: its affinity, and quotas as both versions of control groups write them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from netc_runtime import cpus
from netc_runtime.cpus import allowed_cpus, usable_cpus
from netc_runtime.session import Host


@pytest.fixture
def affine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the scheduler may put on 8 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


V1 = "4:memory:/m\n3:cpu,cpuacct:/docker/a\n2:cpuset:/c\n0::/\n"
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.usefixtures("affine")
@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (None, {}, 8),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "1200000 100000\n"}, 8),
        (None, {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "300000 100000\n", "x/cpu.max": "1 2\n"}, 2),
        ("0::/docker/a\n", {"cpu.max": "400000 100000\n"}, 4),  # the path of the machine, the mount of a container
        ("0::/../a\n", {"cpu.max": "400000 100000\n", "a/cpu.max": "100000 100000\n"}, 4),
        (V1, {f"cpu/{QUOTA}": "25000\n", f"cpu/{PERIOD}": "100000\n"}, 0.25),
        (V1, {f"cpu/docker/a/{QUOTA}": "150000\n", f"cpu/docker/a/{PERIOD}": "50000\n"}, 3),
        (V1, {f"cpu/docker/{QUOTA}": "50000\n", f"cpu/docker/{PERIOD}": "50000\n"}, 1),
        (V1, {f"cpu/{QUOTA}": "-1\n", f"cpu/{PERIOD}": "100000\n"}, 8),
        (V1, {f"cpu/{QUOTA}": "25000\n"}, 8),
        (None, {f"cpu/{QUOTA}": "25000\n", f"cpu/{PERIOD}": "100000\n"}, 0.25),
        ("0::/\n", {"cpu.max": "50000 0\n"}, 8),
        ("0::/\n", {"cpu.max": "-5 -1\n"}, 8),
        ("0::/\n", {"cpu.max": "what\n"}, 8),
        ("0::/\n", {"cpu.max": "\N{SNOWMAN}\n"}, 8),
        ("0::/\n", {"cpu.max": ""}, 8),
        ("no colon\n\n:\n0::relative\n", {"cpu.max": "50000 100000\n"}, 0.5),
    ],
)
def test_the_quota_of_a_control_group(own: str | None, files: dict[str, str], expected: float, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    if own is not None:
        (tmp_path / "own").write_text(own, encoding="utf-8")
    assert allowed_cpus(tmp_path, tmp_path / "own") == expected


@pytest.mark.parametrize(("allowed", "threads"), [(0.1, 1), (1.0, 1), (1.9, 1), (6.0, 6), (5000.0, 1024)])
def test_the_default_number_of_threads_is_that_of_usable_cpus(
    allowed: float, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "allowed_cpus", lambda: allowed)
    assert usable_cpus() == max(int(allowed), 1)
    assert Host().thread_count == threads
    assert Host(threads=3).thread_count == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinities are Linux's")
def test_a_process_on_one_cpu_has_one_thread() -> None:
    program = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from netc_runtime.session import Host; print(Host().thread_count)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
