"""How many CPUs a process may use at once: fewer than the machine has where an affinity or a quota says so."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """Return how many threads are worth to compute with: `allowed_cpus`, whole and at least 1."""
    return max(int(allowed_cpus()), 1)


def allowed_cpus(cgroups: Path = _CGROUPS, own: Path = _OWN) -> float:
    """Return how many CPUs this process may use at once, by its affinity and the quotas of its control groups.

    `cgroups` is where these are mounted, and `own` the file that names those of the process.
    """
    # Linux alone has affinities.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(count), *_quotas(cgroups, own)])


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Yield the quotas of the groups of the process and of those around them, in either version of control groups.

    In a container the mount often shows its own group as the root, while the path is that of the machine: then there is
    no such folder, and the root has the quota.
    """
    for version, group in _groups(own):
        for each in (group, *group.parents):
            inside = each.relative_to("/")
            if version == 2:
                quota = _quotient(cgroups / inside / "cpu.max")
            else:
                folder = cgroups / "cpu" / inside
                quota = _quotient(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
            if quota is not None:
                yield quota


def _groups(own: Path) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield the version and the path of the groups that may limit the CPUs of this process; their roots, if unknown."""
    root = PurePosixPath("/")
    found = {2: root, 1: root}
    try:
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and ".." not in PurePosixPath(path).parts:  # as of a process moved out of its namespace
            if number == "0":
                found[2] = PurePosixPath(path)
            elif "cpu" in controllers.split(","):
                found[1] = PurePosixPath(path)
    yield from found.items()


def _quotient(*files: Path) -> float | None:
    """Return quota / period, which version 2 writes in one file and version 1 in two; None without a limit."""
    try:
        quota, period = (int(word) for file in files for word in file.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return quota / period if quota > 0 and period > 0 else None
