"""Settings of the Airflow runner."""

from __future__ import annotations

import datetime

from pydantic import Field

from components.common.settings import Section


class AirflowConfig(Section):
    """How Airflow runs the pipeline (`htr compile airflow`)."""

    schedule: str | None = Field(None, description="cron expression or preset such as '@daily'; by hand only if unset")
    start_date: datetime.date = Field(datetime.date(2024, 1, 1), description="date before which no run is scheduled")
    retries: int = Field(
        2, ge=0, description="how often a failed step is tried again; a refused model or bad data is not"
    )
    retry_delay: float = Field(300, ge=0, description="seconds before the first retry; doubled with each")
    timeout: float = Field(86400, gt=0, description="seconds after which a step is stopped")
    pools: dict[str, str] = Field({}, description="Airflow pool by step, e.g. {Trainer: gpu}")
    queues: dict[str, str] = Field({}, description="Airflow queue by step, for Celery workers with GPUs")
    metadata_connection: str | None = Field(
        None, description="Airflow connection (MySQL) of ML Metadata; SQLite in the workspace if unset"
    )
    tags: list[str] = Field(["htr"], description="tags of the DAG in Airflow's interface")
