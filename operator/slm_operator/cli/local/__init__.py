"""``slmctl local``: the pack's agent and the operator's decision on one host, without a cluster."""
