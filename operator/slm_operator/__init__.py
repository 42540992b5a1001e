"""The part that runs in the cluster: decides how many replicas each pack runs, and says why."""
