"""What the sections of the configuration have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """Settings that belong together: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _as_setting(name: Any) -> Any:
    return name.replace("-", "_") if isinstance(name, str) else name


@dataclass(frozen=True)
class IsPath:
    """Marks the type of a setting whose text is a path: commands make it absolute, whatever folder they run in."""


PathText = Annotated[str, IsPath()]
"""A path, as settings have it; it may be one of several types, as in `list[PathText]` and `PathText | None`."""


Decoder = Annotated[Literal["default", "best_path"], BeforeValidator(_as_setting)]
"""With or without the language model of a version; best-path, as options have it, is taken too."""


class ConfigError(ValueError):
    """A setting is unknown or impossible; the message names it and says what is allowed."""
