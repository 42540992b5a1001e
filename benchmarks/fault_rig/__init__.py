"""Faults made on purpose, and a load that counts what they cost."""
