"""A GPU that is not there: a daemon that gives engines their pace, power and faults."""

from slm_worker.gpu.simulated.device import SimulatedDevice

__all__ = ["SimulatedDevice"]
