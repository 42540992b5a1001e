"""A service of several packs under requests, for ``benchmarks.rollout`` and ``outage``."""
