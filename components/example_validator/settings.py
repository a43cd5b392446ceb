"""Settings of the drift measures."""

from __future__ import annotations

from pydantic import Field, field_validator

from components.common.fractions import Fraction
from components.common.settings import Section
from components.common.suggestions import did_you_mean

# What `drift.thresholds` may name: features of the curated schema, and measures of their own.
DRIFT_MEASURES = ("width", "height", "text_length", "paper_level", "ink_level", "ink_share", "sharpness", "confidence",
                  "characters", "new_characters", "rejected")  # fmt: skip


class DriftConfig(Section):
    """How far data may drift: from one run to the next (`htr run`), and against a run or a folder (`htr drift`)."""

    fail: bool = Field(False, description="drift ends the command with exit code 5 instead of a warning")
    thresholds: dict[str, Fraction] = Field(
        {}, description="thresholds by measure, instead of those of the curated schema, e.g. {sharpness: 0.3}"
    )

    @field_validator("thresholds")
    @classmethod
    def _known_measures(cls, thresholds: dict[str, Fraction]) -> dict[str, Fraction]:
        unknown = sorted(set(thresholds) - set(DRIFT_MEASURES))
        if unknown:
            raise ValueError(
                f"{unknown[0]} is no measure; there are {', '.join(DRIFT_MEASURES)}"
                f"{did_you_mean(unknown[0], DRIFT_MEASURES)}"
            )
        return thresholds
