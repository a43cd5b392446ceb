"""Settings of Transform: how an image becomes a tensor."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from components.common.settings import Section

SIZES = {"word": (32, 128), "line": (64, 1600)}  # height and width of the presets


class TransformConfig(Section):
    """How an image becomes a tensor."""

    preset: Literal["word", "line"] = Field(
        "word", description="size of images. word: fixed width; line: variable width"
    )
    height: int | None = Field(None, ge=16, le=256, description="rows of the image tensor; 32 (word), 64 (line)")
    width: int | None = Field(
        None, ge=32, le=8192, multiple_of=4, description="most columns of the image tensor; 128 (word), 1600 (line)"
    )
    resize: Literal["pad", "stretch"] = Field(
        "pad", description="pad: keep the aspect ratio, and pad; stretch: fill the tensor"
    )
    contrast: bool = Field(True, description="spread each image's own ink and paper levels over 0..1")

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            height, width = SIZES.get(str(values.get("preset")), SIZES["word"])
            values = {**values}
            values["height"] = height if values.get("height") is None else values["height"]
            values["width"] = width if values.get("width") is None else values["width"]
        return values
