"""Holds the requests of services that have no pack, in a process of its own."""
