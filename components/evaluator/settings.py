"""Settings of Evaluator's gate: when a model may ship."""

from __future__ import annotations

import unicodedata
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from components.common.fractions import Bound, Fraction
from components.common.settings import Decoder, Section
from components.common.suggestions import did_you_mean
from components.evaluator.slices import SLICES


class GateConfig(Section):
    """When a model may ship. Fractions such as 0.05 or 5%."""

    max_cer: Bound | None = Field(
        0.10, description="bound of the CER: the upper end of its confidence interval must not exceed it; null: off"
    )
    max_cer_increase: Bound | None = Field(
        0.005, description="allowed increase over the CER of the model in service, same images; null: off"
    )
    confidence_level: Fraction = Field(0.95, gt=0, lt=1, description="confidence level of the bootstrap interval")
    slice_max_cer: dict[str, Bound] = Field(
        {}, description="bounds for slices, e.g. {'writer=7': 0.2} or {'length_band': 0.3} for each band"
    )
    decoder: Decoder = Field(
        "default",
        description="texts that are evaluated. default: those that clients get, with the version's language "
        "model; best_path: without it",
    )
    baseline: Literal["in_service", "none"] = Field(
        "in_service",
        description="what max_cer_increase compares with; none, for a new alphabet or preset, needs baseline_reason",
    )
    baseline_reason: str | None = Field(
        None, description="why there is nothing to compare with; kept in verdict, report and model card"
    )

    @field_validator("baseline_reason")
    @classmethod
    def _reason_for_no_baseline(cls, reason: str | None, info: ValidationInfo) -> str | None:
        given, wanted = bool((reason or "").strip()), info.data.get("baseline") == "none"
        if wanted and not given:
            raise PydanticCustomError(
                "baseline_reason",
                "gate.baseline=none lets a model pass that is worse than the one in service: say why, for example "
                "gate.baseline_reason='first model of the preset line'",
            )
        if given and not wanted:
            raise PydanticCustomError("baseline_reason", "it goes with gate.baseline=none; take it out, or set that")
        return reason

    @field_validator("slice_max_cer")
    @classmethod
    def _known_slices(cls, bounds: dict[str, Bound]) -> dict[str, Bound]:
        unknown = [name for name in bounds if name.partition("=")[0] not in SLICES]
        if unknown:
            key = unknown[0].partition("=")[0]
            raise ValueError(
                f"{unknown[0]} is no slice; there are {', '.join(SLICES)}, and values such as writer=7"
                f"{did_you_mean(key, SLICES)}"
            )
        return {unicodedata.normalize("NFC", name): bound for name, bound in bounds.items()}  # as writers are
