"""Settings of RunReport and the model card."""

from __future__ import annotations

from pydantic import Field

from components.common.settings import Section


class CardConfig(Section):
    """What the model card says besides figures."""

    intended_use: str = Field(
        "Transcribing pictures like those it was trained on, as a draft where errors are looked for by a person. Not "
        "meant for decisions about people without one.",
        description="what the model is for, and what not",
    )
    data_licence: str | None = Field(None, description="licence of the training data")
    contact: str | None = Field(None, description="whom to ask about the model")
