"""PURE: what a model needs, and what a GPU can do with it. Shared with the operator."""
