"""Phases of training: the spec that each of them trains by."""

import dataclasses
from typing import Any

from pydantic import TypeAdapter, ValidationError

from netc.declared import sentence
from netc.errors import Diagnostic, SpecError
from netc.solver.rules import SOLVERS, AnySolver, Solver
from netc.spec.load import Loaded, Path
from netc.spec.model import NetSpec, TrainingPhase

# What holds for the whole run.
WHOLE_RUN = frozenset(
    {"max_epochs", "max_iter", "random_seed", "population_batches", "iter_size", "weight_average", "precision"}
)
_SOLVER: TypeAdapter[Solver] = TypeAdapter(AnySolver)


def specs_of_phases(loaded: Loaded) -> list[Loaded]:
    """Return what each phase trains by, in order; the spec itself if it names no phases.

    Raises:
        SpecError: with the mistakes of all phases.
    """
    if not loaded.spec.phases:
        return [loaded]
    mistakes: list[Diagnostic] = []
    found: list[Loaded] = []
    for index, phase in enumerate(loaded.spec.phases):
        place: Path = ("phases", index)
        if problem := _length_problem(phase, index == len(loaded.spec.phases) - 1):
            mistakes.append(loaded.at(place, problem))
        try:
            spec = _overridden(loaded.spec, phase)
        except ValidationError as error:
            for mistake in error.errors():
                path = (*place, "solver", *mistake["loc"])
                mistakes.append(loaded.at(path, sentence(mistake), key="has no field" in sentence(mistake)))
            continue
        for key in sorted(WHOLE_RUN & phase.solver.keys()):
            message = f"{key}: holds for the whole run; set it in the solver section"
            if key in ("max_epochs", "max_iter"):
                message = f"{key}: the length of a phase is its epochs or iterations, beside its solver"
            mistakes.append(loaded.at((*place, "solver", key), message, key=True))
        found.append(dataclasses.replace(loaded, spec=spec, phase=index))
    if mistakes:
        raise SpecError([*loaded.diagnostics, *mistakes])
    return found


def _length_problem(phase: TrainingPhase, is_last: bool) -> str | None:
    given = [key for key in ("epochs", "iterations") if getattr(phase, key) is not None]
    if is_last and given:
        whole = "solver.max_epochs or max_iter"
        return f"{given[0]}: the last phase lasts until the end of the run, which {whole} sets; remove it"
    if not is_last and len(given) != 1:
        return f"a phase before the last one needs exactly one of epochs and iterations, not {len(given) or 'none'}"
    return None


def _overridden(spec: NetSpec, phase: TrainingPhase) -> NetSpec:
    """Return the spec with a phase's own settings; raises ValidationError for a solver that cannot be."""
    update: dict[str, Any] = {key: getattr(phase, key) for key in ("freeze", "lr_mult")}
    update = {key: value for key, value in update.items() if value is not None}
    if phase.solver:
        chosen = SOLVERS.members.get(str(phase.solver.get("type", spec.solver.type)), Solver)
        inherited = {key: value for key, value in spec.resolved()["solver"].items() if key in chosen.model_fields}
        own = {key: value for key, value in phase.solver.items() if key not in WHOLE_RUN}
        update["solver"] = _SOLVER.validate_python(inherited | own)
    return spec.model_copy(update=update)
