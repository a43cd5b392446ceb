"""Writes docs/settings.md: every setting with its default, its permitted values and its meaning.

.venv/bin/python -m docs.settings_page

All of it comes from the models of the configuration, as what `htr config` prints. A test compares the file with them.
"""

import datetime
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import yaml
from pydantic.fields import FieldInfo

from components.common import fractions
from components.common.settings import Section
from pipeline.config import Config

PAGE = Path(__file__).with_name("settings.md")
_NAMES = {
    int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null", datetime.date: "date",
}  # fmt: skip
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
_HEAD = """# All settings

Made from the code by `python -m docs.settings_page`: do not edit it by hand. [reference.md](reference.md) says more
about the settings that matter in production.

A setting is set on the command line, `--set gate.max_cer=0.05`, or in a file, `htr run --config run.yaml`. `htr config`
prints such a file with all settings. Values are YAML: `null` means unset, and for `warm_start` none; `[a, b]` is a
list, `{a: 1}` a mapping. A fraction is a number from 0 to 1, or a percentage such as `5%`. Unknown names and impossible
values are refused with exit code 2. Relative paths begin in the folder in which the command runs.
"""
_TABLE = "| setting | default | values | meaning |\n|---|---|---|---|\n"


def as_page() -> str:
    """The page: settings outside of sections, then a chapter for each section."""
    single, chapters = [], []
    for name, field in Config.model_fields.items():
        if isinstance(field.default, Section):
            section = type(field.default)
            rows = "".join(_row(f"{name}.{setting}", of) for setting, of in section.model_fields.items())
            chapters.append(f"\n## `{name}`\n\n{section.__doc__}\n\n{_TABLE}{rows}")
        else:
            single.append(_row(name, field))
    return f"{_HEAD}\n## Outside of sections\n\n{_TABLE}{''.join(single)}{''.join(chapters)}"


def _row(name: str, field: FieldInfo) -> str:
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    written = yaml.safe_dump(default, default_flow_style=True, allow_unicode=True, width=10_000)
    meaning = (field.description or "").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    values = _values(field.annotation, field.metadata)
    return f"| `{name}` | `{written.strip().removesuffix(chr(10) + '...')}` | {values} | {meaning} |\n"


def _values(kind: Any, metadata: Iterable[Any] = ()) -> str:
    """What a value of a type may be, in words.

    Args:
        kind: Type of the value.
        metadata: What pydantic knows of it besides.
    """
    known = [part for data in metadata for part in (data.metadata if isinstance(data, FieldInfo) else [data])]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _values(arguments[0], [*arguments[1:], *known])
    if origin in (Union, types.UnionType):
        return ", or ".join(_values(argument, known if argument is not type(None) else ()) for argument in arguments)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {len(arguments)}: {', '.join(map(_values, arguments))}"
    if origin is list:
        least, most = _first(known, "min_length"), _first(known, "max_length")
        length = "" if least is None else f" of {least}" if least == most else f" of at least {least}"
        return f"list{length}: {_values(arguments[0])}"
    if origin is dict:
        return f"mapping of names to: {_values(arguments[1])}"
    if pattern := _first(known, "pattern"):
        return f"text like `{pattern}`"
    fraction = any(getattr(getattr(data, "func", None), "__module__", "") == fractions.__name__ for data in known)
    implied = {("ge", 0), ("le", 1)} if fraction else set()
    limits = [
        f"{words} {limit}"
        for data in known
        for name, words in _LIMITS.items()
        if (limit := getattr(data, name, None)) is not None and (name, limit) not in implied
    ]
    return ", ".join(["fraction" if fraction else _NAMES[kind], *limits])


def _first(metadata: Iterable[Any], name: str) -> Any:
    return next((value for data in metadata if (value := getattr(data, name, None)) is not None), None)


if __name__ == "__main__":
    PAGE.write_text(as_page(), encoding="utf-8")
