"""The container images of operator and worker, where no registry can be reached.

``python -m slm_dev.images`` builds what is missing; see `find_or_build` and `worker_with_vllm`.
"""

from slm_dev.images.build import Image, Images, find_or_build, worker_with_vllm
from slm_dev.vllm_cpu.errors import SetupError

__all__ = ["Image", "Images", "SetupError", "find_or_build", "worker_with_vllm"]
