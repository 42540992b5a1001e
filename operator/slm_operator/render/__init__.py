"""Pure: a service as the child objects that should exist."""
