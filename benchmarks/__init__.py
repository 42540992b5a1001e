"""Measurements of the project against its own goals; each writes benchmarks/results/NAME.json."""
