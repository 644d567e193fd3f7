"""State that another host saved: a safetensors file of named tensors, without what a checkpoint of netc remembers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from netc_runtime.arrays import Array, shape_text
from netc_runtime.artifact import Artifact
from netc_runtime.checkpoint import Checkpoint, Position, is_checkpoint, load_state
from netc_runtime.errors import DamagedFileError, DriverError, ExitCode
from netc_runtime.plan import Plan

NEEDED = ("parameter", "statistic", "data_mean", "data_std")
"""Roles of the state that inference depends on; what a file lacks of others begins as in init.safetensors."""


def load_weights(path: Path, artifact: Artifact) -> Checkpoint:
    """Read a checkpoint of netc, or the state that another host saved, which may lack the memory of the solver.

    Raises DriverError: 2 if the file is absent or of another network, DamagedFileError (1) if it is damaged.
    """
    if is_checkpoint(path):
        return Checkpoint.load(path, artifact)
    found = load_state(path)
    known = {spec.name: spec for spec in artifact.state}
    unknown = sorted(found.keys() - known.keys())
    if unknown:
        raise DriverError(
            f'{path} has the tensor "{unknown[0]}", which {artifact.name} does not have; give weights of this network',
            ExitCode.USAGE,
        )
    averaged = any(spec.role == "average" for spec in artifact.state)
    needed = (*NEEDED, "average") if averaged else NEEDED
    for name, spec in known.items():
        array = found.get(name)
        if array is None and spec.role in needed:
            raise DriverError(
                f'{path} lacks the {spec.role} "{name}" of {artifact.name}; give weights of this network',
                ExitCode.USAGE,
            )
        if array is None:
            continue
        if array.shape != spec.static_shape or array.dtype != np.dtype(spec.dtype):
            raise DriverError(
                f'{path} has "{name}" as {array.dtype} {shape_text(array.shape)}, and {artifact.name} as {spec.dtype} '
                f"{shape_text(spec.shape)}; give weights of this network",
                ExitCode.USAGE,
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DamagedFileError(f'{path}: "{name}" has values that are not finite; give other weights')
    state = {**artifact.initial_state(), **found}
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
