"""Settings of the step LanguageModel."""

from __future__ import annotations

from pydantic import Field

from components.common.settings import PathText, Section


class LanguageConfig(Section):
    """The language model that travels with a version: character n-grams of the training labels."""

    enabled: bool = Field(
        True,
        description="false leaves the language model out, from which frequent character sequences of the labels "
        "can be read",
    )
    texts: list[PathText] = Field([], description="UTF-8 text files to learn from besides the labels, one text a line")
    base_texts: bool = Field(
        True,
        description="learn from the texts of the base model, too, where the training started from it, or from a "
        "version that goes back to it, and the labels are in its characters; `texts` count ten times then",
    )
    order: int = Field(6, ge=2, le=8, description="characters of the longest n-grams")
    least_labels: int = Field(
        2,
        ge=1,
        description="n-grams that fewer labels have, and fewer lines of the texts, are left out: 1 keeps what only one "
        "has",
    )
    max_megabytes: float = Field(
        2.0, gt=0, le=5, description="largest size in a version; n-grams that tell least are dropped"
    )
