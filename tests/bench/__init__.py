"""Benchmarks: `python -m tests.bench.NAME` prints a table that docs/performance.md explains."""
