"""Settings of BulkInferrer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.common.settings import Decoder, PathText, Section

_TABLES = ("jsonl", "csv")


class BulkConfig(Section):
    """New images that the pipeline transcribes with a blessed model (step BulkInferrer)."""

    folder: PathText | None = Field(
        None, description="folder with new images, at any depth; there is no such step if unset"
    )
    kind: Literal["line", "page", "auto"] = Field(
        "line", description="what the images show: a line or word each, a page each, or either (auto)"
    )
    line_finder: PathText | None = Field(
        None, description="version of a line finder, or directory of versions, for pages; null is the one shipped"
    )
    format: Literal["jsonl", "csv", "alto", "page", "hocr", "json", "text"] = Field(
        "jsonl", description="format of the texts: a table (jsonl, csv), or a file of each page"
    )
    batch_size: int = Field(64, ge=1, description="images of one call of the model")
    decoder: Decoder = Field("default", description="default: with the model's language model; best_path: without it")
    bfloat16: bool = Field(
        False, description="compute in bfloat16 on CPUs that have it: faster, and a text differs now and then"
    )

    @property
    def output(self) -> str:
        """Name of the table, or of the folder of pages."""
        return f"texts.{self.format}" if self.format in _TABLES else "pages"

    @model_validator(mode="after")
    def _documents_are_of_pages(self) -> BulkConfig:
        if self.format not in _TABLES and self.kind == "line":
            raise ValueError(f"bulk.format={self.format} makes a file of each page: set bulk.kind=page")
        return self
