"""A vLLM that runs no model: the same API and behaviour, at the pace of a simulated GPU."""

from slm_worker.engine.simulated.engine import SimulatedEngine

__all__ = ["SimulatedEngine"]
