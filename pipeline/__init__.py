"""The pipeline: its definition and settings, and the ways to run it."""
