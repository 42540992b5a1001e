"""Runs the Pods of a real API server as processes of this host: no root, no containers."""

from slm_dev.local_node.container import Timing
from slm_dev.local_node.environment import LocalImage
from slm_dev.local_node.node import LocalNode

__all__ = ["LocalImage", "LocalNode", "Timing"]
