"""Settings of the line finder and of the steps of its pipeline: pages, network, training, gate."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from components.common.fractions import Fraction
from components.common.settings import PathText, Section
from components.trainer.settings import LoopConfig

STRIDE = 2
"""Pixels of the scaled page for a cell of the maps."""
COARSEST = 32
"""The network needs pages whose sides are multiples of this, in pixels of the scaled page."""
IN_SERVICE, BASE = "in_service", "base"
"""Of `line_gate.recogniser`: the version in service, the base model for lines."""
_RATE, _WARM_RATE = 3e-3, 5e-4


class PagesConfig(Section):
    """Pages that a line finder learns from (task: pages). Folders and fractions are those of data, without a limit."""

    document: str = Field(
        "auto",
        description="grouping of pages into documents, one split each. auto: as the files say, else each page alone; "
        "folder: those of one folder; else a regular expression for a page's path, whose group is the document",
    )
    model_dir: PathText | None = Field(
        None, description="base directory of the line finder; <workspace>/serving_model/htr-lines if unset"
    )


class LineFinderConfig(Section):
    """The network that finds lines, and the size of its pages."""

    longest: int = Field(1280, ge=128, le=2048, multiple_of=COARSEST, description="longest side of a page, in pixels")
    largest_scale: float = Field(2.0, ge=1, description="largest factor by which smaller pages are enlarged")
    filters: list[Annotated[int, Field(ge=4)]] = Field(
        [12, 24, 48, 64, 96], min_length=5, max_length=5, description="channels at strides 2, 4, 8, 16 and 32"
    )


class LineTrainingConfig(LoopConfig):
    """How the line finder is trained."""

    epochs: int = Field(40, ge=1, description="passes over the pages")
    windows: int = Field(2, ge=1, description="windows of a page in each pass")
    batch_size: int = Field(3, ge=1, description="windows of one optimiser step")
    window: tuple[int, int] = Field((512, 640), description="height and width of a window in pixels")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description=f"peak learning rate, which decays along a cosine to a hundredth; {_RATE} if unset, "
        f"{_WARM_RATE} after a warm start",
    )
    warmup_epochs: float = Field(1.0, ge=0, description="epochs in which the learning rate rises")
    average_steps: int = Field(200, ge=1, description="span of the moving average of the weights that is kept")
    augment: float = Field(1.0, ge=0, le=2, description="strength of the random augmentation; 0 switches it off")
    validate_every: int = Field(2, ge=1, description="epochs between two validations")
    seed: int = Field(0, ge=0, description="seed of random weights, order and augmentation")

    def peak_rate(self, is_warm: bool) -> float:
        """The peak of the learning rate.

        Args:
            is_warm: Whether the weights are those of an earlier line finder.
        """
        return self.learning_rate or (_WARM_RATE if is_warm else _RATE)

    @field_validator("window")
    @classmethod
    def _of_whole_cells(cls, window: tuple[int, int]) -> tuple[int, int]:
        if any(side < COARSEST or side % COARSEST for side in window):
            raise ValueError(f"both sides must be multiples of {COARSEST}")
        return window


class LineGateConfig(Section):
    """When a line finder may ship."""

    max_cer_ratio: float | None = Field(
        1.15, ge=1, description="bound of the CER in the found lines divided by the CER in the true lines; null: off"
    )
    min_f1: Fraction | None = Field(0.85, description="bound that the F1 of the lines must reach; null: off")
    max_ratio_increase: float | None = Field(
        0.02, ge=0, description="allowed increase over the ratio of the line finder in service, same pages; null: off"
    )
    recogniser: PathText = Field(
        IN_SERVICE,
        description="what transcribes the lines. in_service: the version labelled stable, else the newest in the "
        "workspace, else the base model; base: the base model for lines; else a version directory, or a directory of "
        "versions",
    )
