"""The section `run`: when to evaluate, what to keep, and when to stop before the planned end."""

from typing import Self

from pydantic import Field, model_validator

from netc.declared import Declared, mistake


class Every(Declared):
    """A distance between two evaluations.

    Example: evaluate_every: {steps: 500}
    """

    epochs: int | None = Field(None, gt=0)
    """Evaluate at the end of every so many epochs; give this or steps."""
    steps: int | None = Field(None, gt=0)
    """Evaluate after every so many steps; give this or epochs."""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise mistake("evaluate_every needs exactly one of epochs and steps")
        return self


class EarlyStopping(Declared):
    """Ends a run before its planned end once evaluations no longer improve.

    What is monitored also says which checkpoint is the best. Evaluations count through all phases of training.

    Example: early_stopping: {monitor: accuracy, patience: 5, min_delta: 0.001, restore_best: true}
    """

    model_config = {"title": "early_stopping"}

    patience: int = Field(gt=0)
    """Evaluations in a row without improvement after which training ends."""
    monitor: str | None = Field(None, min_length=1)
    """Name of the metric to judge by, such as accuracy or loss; default what says which checkpoint is the best."""
    min_delta: float = Field(0.0, ge=0.0)
    """The smallest change that is an improvement."""
    restore_best: bool = False
    """Whether training exports the best checkpoint at its end, instead of the last one."""


class Run(Declared):
    """How training is accompanied. A resume may change all of it, because no step depends on it.

    Evaluations take place on the test split, and one more at the end. A checkpoint is written after each of them and at
    the end of each epoch. `monitor_every: 100` writes what the layers do in the steps 1, 100, 200, ... to monitor.csv.

    Example: run: {evaluate_every: {steps: 500}, keep: 5, monitor_every: 100, early_stopping: {patience: 3}}
    """

    evaluate_every: Every = Every(epochs=1)
    """When to evaluate."""
    keep: int = Field(3, gt=0)
    """Checkpoints that are kept: so many of the newest, and the best."""
    monitor_every: int | None = Field(None, gt=0)
    """Steps between two looks at activations, gradients and updates of all layers, in monitor.csv; without it, none."""
    early_stopping: EarlyStopping | None = None
    """When to stop before the planned end."""
