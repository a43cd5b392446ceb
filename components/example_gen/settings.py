"""Settings of ExampleGen: what to read, how to split it, which rows to refuse."""

from __future__ import annotations

from typing import Any
from unicodedata import normalize

from pydantic import Field, field_validator

from components.common.fractions import Fraction
from components.common.settings import PathText, Section


class DataConfig(Section):
    """What to read, and which rows to refuse."""

    paths: list[PathText] = Field([], description="dataset folders, each with CSV/TSV files and images")
    image_column: str | None = Field(None, description="column with the image's path; found by common names if unset")
    text_column: str | None = Field(None, description="column with the label; found by common names if unset")
    writer_column: str | None = Field(
        None, description="column with the writer; `writer` if present, where unset; none: writers are unknown"
    )
    split_column: str | None = Field(
        None, description="column with the split; `split` if present, where unset; none: no column says it"
    )
    encoding: str = Field(
        "utf-8", description="encoding of the CSV files that are not UTF-8 and have no byte order mark"
    )
    placeholders: list[str] = Field(
        ["EMPTY", "UNREADABLE", "#N/A", "NaN"], description="labels that stand for 'no text', in any case; [] for none"
    )
    allow_outside: bool = Field(
        False, description="read images and label files outside of the folders too: absolute paths, .., links"
    )
    alphabet: str | None = Field(None, description="allowed characters; every character of the labels if unset")
    max_megapixels: float = Field(
        50.0, gt=0, description="megapixels of the largest image; larger ones are rejected before they are decoded"
    )
    max_rejected: Fraction = Field(
        0.1, description="rejected share of rows above which the run fails; placeholders of people do not count"
    )
    validation_fraction: Fraction = Field(
        0.1, gt=0, lt=0.5, description="share of writers (or images) that training monitors"
    )
    eval_fraction: Fraction = Field(
        0.1, gt=0, lt=0.5, description="share of writers (or images) that the gate evaluates"
    )
    split_salt: str = Field("", description="text that the random splits follow from; another one draws other splits")
    limit: int | None = Field(
        None, ge=1, description="number of rows that are used, a part with the same writers and splits; all if unset"
    )

    @property
    def max_pixels(self) -> int:
        """`max_megapixels` as a number of pixels."""
        return int(self.max_megapixels * 1e6)

    @field_validator("split_salt", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"Python has no text encoding {value!r}. Most files are utf-8, utf-16 or what Excel on Windows saves: "
                "cp1252 in western Europe, cp1250 in central Europe, cp1251 for Cyrillic (docs/data.md lists others)"
            ) from error
        return value

    @field_validator("alphabet", "placeholders")
    @classmethod
    def _compose(cls, value: list[str] | str | None) -> list[str] | str | None:
        """NFC, as labels are."""
        if isinstance(value, list):
            return [normalize("NFC", text) for text in value]
        return None if value is None else normalize("NFC", value)
