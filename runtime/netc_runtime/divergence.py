"""The sentence about a run that diverged: the step, the layer or the sample it began with, and the values."""

from collections.abc import Callable, Sequence

from netc_runtime.data.mapped import Indices
from netc_runtime.diagnose import origin_of_divergence
from netc_runtime.errors import DriverError
from netc_runtime.updates import Updates, not_finite

_SHOWN = 5  # names of bad values in one sentence


def account(
    updates: Updates,
    restart: Callable[[], int],
    step: int,
    values: Sequence[str],
    indices: Indices | None,
    threads: int | None,
) -> str:
    """Return where the non-finite `values` after update `step` began; `updates` cannot go on afterwards.

    `indices` are the samples of the last batch where its metrics are not finite, None where the state is not.
    `restart` takes `updates` back to the last checkpoint and returns its step.
    """
    feeds, origin = updates.program.last_feeds(), ""
    state = {spec.name for spec in updates.artifact.packing.specs(updates.artifact.state)}
    if feeds is not None and (indices is None or not_finite({name: feeds[name] for name in feeds.keys() & state})):
        # A gradient went wrong in an earlier step, which only the next loss or the end of the epoch shows.
        found = _first_bad(updates, restart, step)
        if found is not None:
            step, indices, names = found
            values = [f"{name} is not finite" for name in names]
            feeds = updates.program.last_feeds()
    if feeds is not None:
        samples = () if indices is None else indices.tolist()
        origin = f"{origin_of_divergence(updates.artifact, feeds, threads, samples, updates.graph)}; "
    return f"training diverged at step {step}: {origin}{listed(values)}"


def _first_bad(updates: Updates, restart: Callable[[], int], last: int) -> tuple[int, Indices, list[str]] | None:
    """Repeat the updates since the last checkpoint; return the first after which the state is not finite.

    Training is a function of state and samples, so the same happens again. None if it does not, as on a device whose
    kernels are not deterministic, or if what training began with cannot be read any more.
    """
    try:
        return updates.first_bad(restart(), last)
    except DriverError:
        return None  # the run has failed already, and its own error says more


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
