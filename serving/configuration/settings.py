"""What can be chosen of the production configuration: one YAML file, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from htr_client.model_facts import LINE_FINDER

FOLDER = Path(__file__).parents[1] / "production"
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
Address = Annotated[str, Field(pattern=r"^([\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]+$")]


class _Section(BaseModel):
    # Strict: `yes` is no number.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Batching(_Section):
    """Parameters of TensorFlow Serving's batching; they are counted in images."""

    max_batch_size: int = Field(ge=1, description="also the most images that one request may have")
    batch_timeout_micros: int = Field(ge=0, le=50_000, description="how long the first request waits for others")
    max_enqueued_batches: int = Field(ge=1, description="full batches that may wait; more is UNAVAILABLE at once")
    num_batch_threads: int = Field(ge=1, description="batches that run at once")
    allowed_batch_sizes: list[int] = Field(
        min_length=1, description="to which batches are padded: few shapes for cuDNN"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Batching:
        sizes = self.allowed_batch_sizes
        if sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError("allowed_batch_sizes must increase")
        if sizes[-1] != self.max_batch_size:
            raise ValueError("the last of allowed_batch_sizes must be max_batch_size")
        if self.max_enqueued_batches < self.num_batch_threads:
            raise ValueError("max_enqueued_batches below num_batch_threads leaves threads without work")
        return self


class Variant(_Section):
    """One image."""

    image: str = Field(pattern=r"^[\w./-]+:[\w.-]+$", description="image it is made from, with a tag")
    gpu: bool
    batching: Batching | None = Field(description="null switches batching off")
    grpc_max_threads: int = Field(ge=8, description="requests at once; more get RESOURCE_EXHAUSTED")

    @model_validator(mode="after")
    def _enough_threads(self) -> Variant:
        if self.batching is not None:
            # Every request holds a thread while it waits. Single images must be able to fill the batches that run and
            # those that wait, and threads must be left to refuse the others: a request that finds no thread reaches no
            # metric, and the alert on overload would see nothing.
            b = self.batching
            needed = b.max_batch_size * (b.num_batch_threads + b.max_enqueued_batches + 1)
            if self.grpc_max_threads < needed:
                raise ValueError(f"grpc_max_threads must be at least {needed} for these batches")
        return self


class Alerts(_Section):
    """Bounds of the alert rules, over five minutes where nothing else is said."""

    failed_share: float = Field(gt=0, lt=1, description="of requests that fail through no fault of the caller")
    rejected_share: float = Field(gt=0, lt=1, description="of requests that are refused by a full server")
    p95_latency_ms: float = Field(gt=0, description="of a request, in the server")
    p95_queueing_ms: float = Field(gt=0, description="of waiting for a batch")
    memory_growth: float = Field(1.3, gt=1, description="times the memory of a day or a week before, after pushes")


class Settings(_Section):
    """Everything that can be chosen."""

    model: ModelName
    further_models: list[ModelName] = Field(
        default=[], description="others of this pipeline in the same models.config, which the alerts then watch, too"
    )
    tls: Literal["mutual", "server", "none"]
    variants: dict[Literal["gpu", "cpu"], Variant]
    alerts: Alerts
    alertmanagers: list[Address] = Field(default=[], description="HOST:PORT; without any, alerts reach nobody")
    clients: list[Address] = Field(
        default=[], description="HOST:PORT of services that serve the metrics of HtrClient at /metrics"
    )

    @field_validator("further_models")
    @classmethod
    def _are_others(cls, names: list[str], info: ValidationInfo) -> list[str]:
        known = [info.data.get("model"), LINE_FINDER]
        for name in names:
            if name in known:
                raise ValueError(f"{name} is watched anyway, or stands twice")
            known.append(name)
        return names

    @classmethod
    def read(cls, path: Path = FOLDER / "settings.yaml") -> Settings:
        """Reads and checks the settings.

        Args:
            path: YAML file.

        Returns:
            The settings.

        Raises:
            ValueError: Something is unknown, missing or contradicts something else (pydantic's ValidationError).
        """
        return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
