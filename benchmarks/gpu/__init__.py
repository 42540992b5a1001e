"""One GPU, measured as the operator would use it: real NVML, MPS and vLLM, or stand-ins for all."""
