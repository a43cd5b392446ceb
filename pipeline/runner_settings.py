"""Settings of the runners for Airflow and Kubeflow; outside of `runners`, which need the whole configuration."""

from __future__ import annotations

import datetime
import re

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from components.common.settings import Section
from htr_client.version import __version__

# More than any run needs, and less than what Airflow's and Kubeflow's types of time overflow at.
_YEAR = 365 * 24 * 3600
_MOST_RETRIES = 100
# Airflow's names for schedules, and what the fields of a cron expression may be: lowest and highest number, and names.
# For others it shows an import error, and no DAG.
_SCHEDULES = ("@once", "@continuous", "@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_CRON: tuple[tuple[int, int, list[str]], ...] = (
    (0, 59, []), (0, 23, []), (1, 31, []), (1, 12, _MONTHS), (0, 7, _DAYS), (0, 59, []),
)  # fmt: skip
# One part of a field, as in 1-5/2, l, l5 (the last Friday) or mon#2.
_PART = re.compile(r"(?=.)l?(\*|\?|\d+|[a-z]{3})?(?:-(\d+|[a-z]{3}))?(?:#[1-5])?(?:/[1-9]\d*)?")


def _is_cron(schedule: str) -> bool:
    fields = schedule.lower().split()
    if len(fields) not in (5, 6):
        return False
    for field, (lowest, highest, names) in zip(fields, _CRON, strict=False):
        for part in map(_PART.fullmatch, field.split(",")):
            if part is None:
                return False
            for value in filter(None, part.groups()):
                if value not in ("*", "?", *names) and not (value.isdigit() and lowest <= int(value) <= highest):
                    return False
    return True


class AirflowConfig(Section):
    """How Airflow runs the pipeline (`htr compile airflow`)."""

    schedule: str | None = Field(None, description="cron expression or preset such as '@daily'; by hand only if unset")
    start_date: datetime.date = Field(datetime.date(2024, 1, 1), description="date before which no run is scheduled")
    retries: int = Field(
        2,
        ge=0,
        le=_MOST_RETRIES,
        description="how often a failed step is tried again; a refused model or bad data is not",
    )
    retry_delay: float = Field(300, ge=0, le=_YEAR, description="seconds before the first retry; doubled with each")
    timeout: float = Field(86400, gt=0, le=_YEAR, description="seconds after which a step is stopped")
    pools: dict[str, str] = Field({}, description="Airflow pool by step, e.g. {Trainer: gpu}")
    queues: dict[str, str] = Field({}, description="Airflow queue by step, for Celery workers with GPUs")
    metadata_connection: str | None = Field(
        None, description="Airflow connection (MySQL) of ML Metadata; SQLite in the workspace if unset"
    )
    tags: list[str] = Field(["htr"], description="tags of the DAG in Airflow's interface")

    @field_validator("schedule")
    @classmethod
    def _known_to_airflow(cls, schedule: str | None) -> str | None:
        if schedule is not None and schedule not in _SCHEDULES and not _is_cron(schedule):
            raise PydanticCustomError(
                "schedule",
                "It is neither a cron expression such as '0 3 * * *' nor one of {known}",
                {"known": ", ".join(_SCHEDULES)},
            )
        return schedule


class KubeflowConfig(Section):
    """How Kubeflow Pipelines runs the pipeline (`htr compile kubeflow`, `htr submit kubeflow`)."""

    image: str = Field(f"htr-pipeline:{__version__}", description="image of the steps, see kubeflow/Dockerfile")
    trainer_image: str | None = Field(None, description="image of Trainer and Tuner, with CUDA; `image` if unset")
    image_pull_secrets: list[str] = Field([], description="secrets with the registry's credentials")
    pipeline_root: str | None = Field(None, description="where artifacts go, e.g. s3://bucket/htr; Kubeflow's if unset")
    scratch: str = Field(
        "/tmp/htr",
        description="folder of Trainer's checkpoints; another try or a later run goes on from those on a volume",
    )
    stage_artifacts: bool = Field(
        True,
        description="true: steps work on local copies of artifacts; false, with gs://: on the artifacts, for "
        "Beam workers elsewhere",
    )
    cpu: float = Field(4, gt=0, description="CPU limit of each step")
    cpu_request: float = Field(0.5, gt=0, description="CPUs that a node keeps for each step; at most the limit")
    memory: float = Field(8, gt=0, description="memory limit of each step, GB")
    memory_request: float = Field(2, gt=0, description="memory that a node keeps for each step, GB; at most the limit")
    trainer_cpu: float = Field(8, gt=0, description="CPU limit of Trainer and Tuner")
    trainer_cpu_request: float = Field(2, gt=0, description="CPUs that a node keeps for Trainer and Tuner")
    trainer_memory: float = Field(32, gt=0, description="memory limit of Trainer and Tuner, GB")
    trainer_memory_request: float = Field(8, gt=0, description="memory that a node keeps for Trainer and Tuner, GB")
    accelerator: str = Field("nvidia.com/gpu", description="Kubernetes' name of the accelerator of Trainer and Tuner")
    accelerators: int | None = Field(
        None,
        ge=0,
        description="accelerators of Trainer, and of Tuner; 0 trains on the CPU; unset: 1 with trainer_image, else 0",
    )
    node_selector: dict[str, str] = Field({}, description="labels of the nodes that steps may run on")
    trainer_node_selector: dict[str, str] = Field(
        {}, description="further node labels of Trainer and Tuner, e.g. {cloud.google.com/gke-accelerator: nvidia-l4}"
    )
    tolerations: list[dict[str, str]] = Field([], description="tolerated taints: key, operator, value, effect")
    trainer_tolerations: list[dict[str, str]] = Field(
        [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        description="further tolerations of Trainer and Tuner",
    )
    volumes: dict[str, str] = Field({}, description="mount path by volume claim, e.g. {htr-data: /data}")
    secret_volumes: dict[str, str] = Field({}, description="mount path by secret")
    secret_env: dict[str, dict[str, str]] = Field(
        {},
        description="environment variables from secrets: by secret, variable by key, e.g. {s3: {accesskey: "
        "AWS_ACCESS_KEY_ID}}",
    )
    env: dict[str, str] = Field({}, description="environment variables of the steps")
    cache: bool = Field(True, description="reuse a step's output where nothing that it depends on has changed")
    retries: int = Field(
        2,
        ge=0,
        le=_MOST_RETRIES,
        description="how often a step is tried again; after which failures, Kubeflow's installation decides "
        "(docs/production.md). The verdicts of ExampleValidator and Gate are final",
    )
    retry_delay: float = Field(60, ge=0, le=_YEAR, description="seconds before the first retry; doubled with each")
    timeout: float | None = Field(
        86400,
        gt=0,
        le=_YEAR,
        description="seconds on a node after which a try of a step is ended; unlimited if unset",
    )
    host: str | None = Field(None, description="address of the interface, e.g. https://kubeflow.example.com/pipeline")
    namespace: str | None = Field(None, description="profile that runs belong to, where there are several users")
    experiment: str = Field("htr", description="experiment that runs are listed under")
    service_account: str | None = Field(None, description="service account of the steps' pods; Kubeflow's if unset")

    @property
    def reserved(self) -> int:
        """Accelerators that each of Trainer and Tuner gets: none for `image`, which cannot use them."""
        return (1 if self.trainer_image else 0) if self.accelerators is None else self.accelerators

    @field_validator("tolerations", "trainer_tolerations")
    @classmethod
    def _known_keys(cls, tolerations: list[dict[str, str]]) -> list[dict[str, str]]:
        for name in {name for toleration in tolerations for name in toleration}:
            if name not in ("key", "operator", "value", "effect"):
                raise ValueError(f"a toleration has key, operator, value and effect, not {name}")
        return tolerations
