"""The table of cases, in parts: rows for primitives, layers, fillers, policies, schedules and solvers.

A row says how to build, the shapes and the domain of its inputs, and its oracle: PyTorch in float64, or numpy; geometry
that matters has rows of its own. What a row drives stands in test_vjp, test_layers, test_fillers and test_solver, where
a member of a family without a row fails.
"""
