"""What pyproject.toml cannot say: the version is that of the client, and exactly this client is needed.

Exact versions of everything lie in requirements/, a lock file for each stack; here are the direct dependencies, so that
the package can also be installed into an existing TFX environment or image. Beam's `--setup_file` ships this package to
workers.
"""

from pathlib import Path
from runpy import run_path

from setuptools import setup

VERSION = run_path(str(Path(__file__).parent / "client/htr_client/version.py"))["__version__"]

setup(
    version=VERSION,
    install_requires=[
        f"htr-client=={VERSION}",
        "tfx>=1.16",
        "dill",  # imported by TFX 1.16, which does not declare it
        "tensorflow>=2.16",
        "tensorflow-transform>=1.16",
        "tensorflow-serving-api>=2.16",
        "apache-beam>=2.59",
        "keras>=3.12",
        "opencv-python-headless>=4.8",
        "pandas>=1.5",
        "grpcio>=1.60",
        "matplotlib>=3.8",
        "tensorboard",
        "pydantic>=2.7",
        "rich>=13",
        "PyYAML>=6",
        "Jinja2>=3.1",
        "Pillow>=10",
        "packaging",
        "psutil>=5.9",
        "rapidfuzz>=3",
        "charset-normalizer>=3",
    ],
)
