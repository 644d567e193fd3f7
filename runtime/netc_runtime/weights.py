"""State that another host saved: a safetensors file of named tensors, without what a checkpoint of netc remembers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.artifact import MANIFEST, Artifact
from netc_runtime.checkpoint import Checkpoint, Position, is_checkpoint, load_state
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.interface import TensorSpec
from netc_runtime.plan import Plan

NEEDED = ("parameter", "statistic", "data_mean", "data_std")
"""Roles of the state that inference depends on; what a file lacks of others begins as in init.safetensors."""
_SHOWN = 5  # tensors in one sentence


def load_weights(path: Path, artifact: Artifact) -> Checkpoint:
    """Read a checkpoint of netc, or the state that another host saved, which may lack the memory of the solver.

    Raises DriverError: 2 if the file is absent or of another network, DamagedFileError (1) if it is damaged.
    """
    if is_checkpoint(path):
        return Checkpoint.load(path, artifact)
    state = foreign_state(path, artifact)
    return Checkpoint(
        state=state,
        position=replace(Position.start(), step=step_of(artifact, state)),
        seed=0,
        threads=1,
        device="cpu",
        spec=artifact.spec,
        spec_hash=artifact.spec_hash,
        netc_version=artifact.netc_version,
        engine="",
    )


def foreign_state(path: Path, artifact: Artifact) -> dict[str, Array]:
    """Return a state with the tensors of a safetensors file of another host, matched by name.

    What evaluation and inference depend on has to be there; of all else, what the file lacks is as in the artifact's
    init.safetensors. Other floating-point types are converted; tensors that the network does not know are passed over.

    Raises DriverError (2) that names what is missing or of another shape, DamagedFileError (1) for values that are not
    finite.
    """
    found, state = load_state(path), artifact.initial_state()
    averaged = any(spec.role == "average" for spec in artifact.state)
    needed = (*NEEDED, "average") if averaged else NEEDED
    missing, misshapen, bad = list[str](), list[str](), list[str]()
    for spec in artifact.state:
        array = found.get(spec.name)
        if array is None:
            missing += [spec.name] if spec.role in needed else []
        elif _fits(array, spec):
            with np.errstate(over="ignore"):  # refused below
                state[spec.name] = array.astype(spec.dtype)
            bad += [] if np.isfinite(state[spec.name]).all() else [spec.name]
        else:
            misshapen.append(
                f"{spec.name} ({array.dtype} {shape_text(array.shape)} there, {spec.dtype} "
                f"{shape_text(spec.static_shape)} here)"
            )
    problems = [
        f"{what} {_listed(names)}"
        for what, names in (("it lacks", missing), ("of another shape or type are", misshapen))
        if names
    ]
    if problems:
        raise DriverError(
            f"{path} does not hold the weights of {artifact.name}: {'; '.join(problems)}; save the state under the "
            f"names of {MANIFEST}",
            ExitCode.USAGE,
        )
    if bad:
        raise DamagedFileError(f"{path} has values that are not finite in {_listed(bad)}; give other weights")
    return state


def _fits(array: Array, spec: TensorSpec) -> bool:
    kinds = array.dtype.kind, np.dtype(spec.dtype).kind
    return array.shape == spec.static_shape and (kinds == ("f", "f") or array.dtype == np.dtype(spec.dtype))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def start_of(artifact: Artifact, state: Mapping[str, Array], plan: Plan) -> Position:
    """Return where a new run with this state begins: that of a training package may have seen updates already.

    Raises DriverError (2) if the plan ends before, or the state is in the middle of an update.
    """
    step = step_of(artifact, state)
    plan.require_reach(step, f"the state of {artifact.folder}")
    return Position.at(step, plan.steps_per_epoch, step >= plan.total_steps)


def step_of(artifact: Artifact, state: Mapping[str, Array]) -> int:
    """Return the number of updates that a state has seen; raises DriverError (2) if it is in the middle of one."""
    for spec in artifact.state:
        if spec.role == "micro_batch" and int(state[spec.name]) != 0:
            raise DriverError(
                f"the state of {artifact.name} is that after batch {int(state[spec.name])} of {artifact.iter_size} of "
                "an update; save it when the update is complete",
                ExitCode.USAGE,
            )
    steps = [int(state[spec.name]) for spec in artifact.state if spec.role == "step"]
    return steps[0] if steps else 0
