"""The router inside a pack: HAProxy by its runtime API."""
