"""The clients and the Service in front of them that ``benchmarks.rollout`` needs."""
