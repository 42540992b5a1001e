"""Development parts: what the demo and the tests need and a cluster never runs."""
