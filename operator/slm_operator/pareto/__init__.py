"""Pure decisions: what was measured, which points are worth having, which to try next.

No I/O, no clock, no randomness: everything a decision depends on is an argument.
"""
