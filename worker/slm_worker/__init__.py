"""The part that runs in a pack: agent, replicas, router, GPU. Knows nothing of Kubernetes."""
