"""The version of both distributions, htr-client and htr-pipeline, and of the images: written here and nowhere else."""

__version__ = "0.1.0"
