"""Pure simulation of packs under a recorded load, to compare scaling policies.

No I/O, no clock, no randomness without a seed: everything a simulation depends on is an argument.
"""
