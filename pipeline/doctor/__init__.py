"""The command `htr doctor`: what this machine has, whether htr can work on it, and what a GPU brings."""
