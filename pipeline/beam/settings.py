"""Settings of Apache Beam: where the data-parallel steps run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.common.settings import PathText, Section


class BeamConfig(Section):
    """Where the data-parallel steps run (Apache Beam)."""

    runner: Literal["local", "dask", "flink", "spark", "dataflow"] = Field(
        "local", description="Beam engine of the data-parallel steps"
    )
    workers: int = Field(1, ge=1, description="worker processes (local), parallelism (flink), most workers (dataflow)")
    address: str | None = Field(None, description="Flink's host:port, spark://host:port, or Dask's tcp://host:port")
    worker_image: str | None = Field(None, description="container image of the workers (flink, spark, dataflow)")
    setup_file: PathText | None = Field(
        None, description="setup.py that ships this package to workers that lack it (flink, spark, dataflow)"
    )
    extra_packages: list[PathText] = Field(
        [],
        description="source archives that workers install besides setup_file, such as htr-client's (flink, spark, "
        "dataflow)",
    )
    project: str | None = Field(None, description="Google Cloud project (dataflow)")
    region: str | None = Field(None, description="Google Cloud region (dataflow)")
    temp_location: str | None = Field(None, description="gs:// folder for what workers exchange (dataflow)")
    args: list[str] = Field([], description="more Beam pipeline options, for every step")
    step_args: dict[str, list[str]] = Field(
        {}, description="more Beam options for single steps, e.g. {Transform: [--x=y]}"
    )
