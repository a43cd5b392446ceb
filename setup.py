"""Installs the pipeline application: packages `pipeline`, `components`, `serving` and the command `htr`.

Exact versions of everything live in requirements/ (a lock file for each stack); here stand only the direct
dependencies, so that the package can also be installed into an existing TFX environment or image.
The client is a distribution of its own, see client/.
"""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="htr-pipeline",
    version="0.1.0",
    description="Handwritten text recognition: a gated TFX pipeline from CSV and pictures to TensorFlow Serving",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["pipeline*", "components*", "serving*"]),
    package_data={
        "serving": ["production/*", "ui.html"],
        "components": ["**/*.pbtxt", "**/*.woff", "**/*.txt", "**/*.j2", "**/*.md"],
    },
    install_requires=[
        "htr-client==0.1.0",
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
    ],
    extras_require={
        "kubeflow": ["kfp-pipeline-spec>=0.2.2", "kfp-server-api>=2.0"],
        "dask": ["dask>=2024.4.2", "distributed>=2024.4.2"],
    },
    entry_points={"console_scripts": ["htr = pipeline.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
