"""The solver: learning-rate policies, update rules and the assembly of one optimizer step, all in the graph."""

from netc.solver import adaptive  # noqa: F401 (registers its rules)
from netc.solver.rules import SOLVERS

__all__ = ["SOLVERS"]
