"""What the sections of the configuration have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """Settings that belong together: unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _only_numbers_are_numbers(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Refuses what Python takes for 1 and 0: `push.keep_versions: yes` would delete all other versions."""
        valid = validate(value)  # first, since the type may have more to say, as that of fractions
        kind = cls.model_fields[info.field_name or ""].annotation
        if (_allows(kind, int) or _allows(kind, float)) and not _allows(kind, bool) and _holds_bool(value):
            raise PydanticCustomError("number", "Input should be a number; yes, no, true and false are not")
        return valid


def _allows(kind: Any, wanted: type) -> bool:
    """Whether a type is the wanted one, or has it among its alternatives or elements."""
    return kind is wanted or any(_allows(inner, wanted) for inner in get_args(kind))


def _holds_bool(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or any(map(_holds_bool, values))


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
