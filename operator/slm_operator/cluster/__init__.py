"""The only code that talks to Kubernetes and to packs."""
