"""Benchmarks of netc; docs/benchmarks.md says what each measures."""
