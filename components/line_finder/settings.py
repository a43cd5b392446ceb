"""Settings of the line finder: the network and its training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from components.common.settings import Section

STRIDE = 2
"""Pixels of the scaled page for a cell of the maps."""
COARSEST = 32
"""The network needs pages whose sides are multiples of this, in pixels of the scaled page."""


class LineFinderConfig(Section):
    """The network and the size of its pages."""

    longest: int = Field(1280, ge=128, le=2048, multiple_of=COARSEST, description="longest side of a page, in pixels")
    largest_scale: float = Field(2.0, ge=1, description="smaller pages are enlarged by at most so much")
    filters: list[Annotated[int, Field(ge=4)]] = Field(
        [12, 24, 48, 64, 96], min_length=5, max_length=5, description="channels at strides 2, 4, 8, 16 and 32"
    )


class LineTrainingConfig(Section):
    """How the network is trained."""

    epochs: int = Field(40, ge=1, description="passes over the pages")
    windows: int = Field(2, ge=1, description="windows of a page in each pass")
    batch_size: int = Field(3, ge=1, description="windows of one optimiser step")
    window: tuple[int, int] = Field((512, 640), description="height and width of a window in pixels")
    learning_rate: float = Field(3e-3, gt=0, description="peak, which decays along a cosine to a hundredth")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs in which the learning rate rises")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW; biases and normalisation are left out")
    clip_norm: float = Field(5.0, gt=0, description="gradients are clipped to this global norm")
    average_steps: int = Field(200, ge=1, description="span of the moving average of the weights that is kept")
    augment: float = Field(1.0, ge=0, le=2, description="strength of the random augmentation; 0 switches it off")
    validate_every: int = Field(2, ge=1, description="epochs between two validations")
    checkpoint_minutes: float = Field(3.0, gt=0, description="a training that is killed loses at most so much")
    seed: int = Field(0, ge=0, description="random weights, order and augmentation follow from it")

    @field_validator("window")
    @classmethod
    def _of_whole_cells(cls, window: tuple[int, int]) -> tuple[int, int]:
        if any(side < COARSEST or side % COARSEST for side in window):
            raise ValueError(f"both sides must be multiples of {COARSEST}")
        return window
