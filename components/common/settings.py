"""What the sections of the configuration have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """Settings that belong together: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _as_setting(name: Any) -> Any:
    return name.replace("-", "_") if isinstance(name, str) else name


Decoder = Annotated[Literal["default", "best_path"], BeforeValidator(_as_setting)]
"""With or without the language model of a version; best-path, as options have it, is taken too."""


class ConfigError(ValueError):
    """A setting is unknown or impossible; the message names it and says what is allowed."""
