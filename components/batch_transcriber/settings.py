"""Settings of BulkInferrer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.common.settings import Section


class BulkConfig(Section):
    """New images that the pipeline transcribes with a blessed model (step BulkInferrer)."""

    folder: str | None = Field(None, description="with images, at any depth; there is no such step if unset")
    format: Literal["jsonl", "csv"] = Field("jsonl", description="of the texts")
    batch_size: int = Field(64, ge=1, description="images of one call of the model")
    decoder: Literal["default", "best_path"] = Field(
        "default", description="default reads with the model's language model, best_path without"
    )
