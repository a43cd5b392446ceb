"""The one configuration of a run: every setting of every step, typed, with its default and its meaning.

A configuration is read from YAML (`load`), changed on the command line (`--set gate.max_cer=0.05`) and
recorded with the model it made. Unknown names and impossible values are refused with the name of the setting and, where
one resembles it, of the setting that was probably meant.

`Config` is `components.report.settings.RunSettings`, the part that the outcome depends on and that components know,
with the sections of where and how a run works.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from components.batch_transcriber.settings import BulkConfig
from components.common.settings import ConfigError, IsPath, Section
from components.common.suggestions import did_you_mean, setting_meant
from components.example_validator.settings import DriftConfig
from components.line_finder.settings import (
    BASE,
    IN_SERVICE,
    LineFinderConfig,
    LineGateConfig,
    LineTrainingConfig,
    PagesConfig,
)
from components.report.settings import RunSettings
from components.trainer.settings import AUTO
from components.transform.settings import SIZES, TransformConfig
from htr_client.model_facts import LINE_FINDER
from pipeline.beam.settings import BeamConfig
from pipeline.runner_settings import AirflowConfig, KubeflowConfig

# What PyYAML raises: also for a date such as 2024-13-01, for `!!int abc`, and for thousands of brackets.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


class Config(RunSettings):
    """All settings of a run."""

    task: Literal["text", "pages"] = Field(
        "text",
        description="what is trained. text: a recogniser, from CSV and images; pages: a line finder, from pages with "
        "PAGE XML or ALTO, by the sections pages and line_*",
    )
    workspace: str = Field("workspace", description="folder of everything that a local run makes")
    drift: DriftConfig = DriftConfig()
    bulk: BulkConfig = BulkConfig()
    pages: PagesConfig = PagesConfig()
    line_finder: LineFinderConfig = LineFinderConfig()
    line_training: LineTrainingConfig = LineTrainingConfig()
    line_gate: LineGateConfig = LineGateConfig()
    beam: BeamConfig = BeamConfig()
    airflow: AirflowConfig = AirflowConfig()
    kubeflow: KubeflowConfig = KubeflowConfig()

    @property
    def model_dir(self) -> str:
        """Directory that a model server watches for recognisers: numbered versions lie directly below it."""
        return self.push.model_dir or str(Path(self.workspace) / "serving_model" / self.name)

    @property
    def line_finder_dir(self) -> str:
        """The same for line finders."""
        return self.pages.model_dir or str(Path(self.workspace) / "serving_model" / LINE_FINDER)

    @property
    def servable(self) -> tuple[str, str]:
        """Name and directory of the versions that a run of this task pushes."""
        return (LINE_FINDER, self.line_finder_dir) if self.task == "pages" else (self.name, self.model_dir)

    @property
    def options(self) -> str:
        """What a suggested command needs besides to be about the same versions and runs, each after a space.

        The command may be typed in another folder, or after a file of settings has changed: what was read from one is
        named by itself.
        """
        section = "pages" if self.task == "pages" else "push"
        settings = {"name": self.name, f"{section}.model_dir": getattr(self, section).model_dir}
        unset = {"name": Config.model_fields["name"].default, f"{section}.model_dir": None}
        found = ["--task", self.task] if self.task != Config.model_fields["task"].default else []
        for name, value in settings.items():
            if value != unset[name]:
                found += ["--set", f"{name}={_value(value)}"]
        workspace = os.path.abspath(self.workspace)
        if workspace != os.path.abspath(Config.model_fields["workspace"].default):
            found += ["--workspace", workspace]
        return "".join(f" {shlex.quote(each)}" for each in found)

    def paths(self) -> Iterator[tuple[str, str, str | list[str]]]:
        """Section, name and value of the settings that are set to a path or a list of paths, besides the workspace."""
        for section, name in PATHS:
            value = getattr(getattr(self, section), name)
            if value and value not in (AUTO, IN_SERVICE, BASE):
                yield section, name, value


# Names of the settings by section.
SETTINGS = {
    name: list(type(field.default).model_fields)
    for name, field in Config.model_fields.items()
    if isinstance(field.default, Section)
}


def _has_path(kind: Any) -> bool:
    """Whether a type is that of a path, of several, or of a path or something else."""
    return isinstance(kind, IsPath) or any(map(_has_path, get_args(kind)))


# Section and name of the settings that are paths.
PATHS = [
    (section, name)
    for section in SETTINGS
    for name, field in type(Config.model_fields[section].default).model_fields.items()
    if _has_path(field.annotation) or any(map(_has_path, field.metadata))
]


def load(path: str | None = None, overrides: list[str] | None = None, **settings: Any) -> Config:
    """Reads a configuration.

    Args:
        path: YAML file, "-" for standard input, or None for the defaults.
        overrides: `section.name=value` strings; the value is YAML (`0.1`, `[a, b]`, `null`).
        **settings: Top-level values and sections that win over file and overrides.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: A setting is unknown or has an impossible value; the message names it.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = _read(path)
    for override in overrides or []:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {override}: write it as section.name=value, for example gate.max_cer=0.05")
        try:
            value = yaml.safe_load(text)
        except _NOT_YAML as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
        _assign(values, name.strip().split("."), value, override)
    for name, value in settings.items():
        if isinstance(value, dict):
            _section(values, name, name).update(value)
        else:
            values[name] = value
    for name in SETTINGS.keys() & values.keys():
        _section(values, name, name)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [": ".join(filter(None, [".".join(map(str, e["loc"])), _explain(e)])) for e in error.errors()]
        raise ConfigError("; ".join(problems)) from None


class _Loader(yaml.SafeLoader):
    """Refuses what YAML drops: the first of two sections or settings of one name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if (name := str(key.value)) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name} is there twice: join the two", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _read(path: str) -> dict[str, Any]:
    called = "standard input" if path == "-" else path
    if path == "-" and sys.stdin is None:  # as after `0<&-`
        raise ConfigError(f"cannot read the configuration {called}: it is closed")
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            loaded = yaml.load(file, _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {called}: {error.strerror}") from error
    except _NOT_YAML as error:
        raise ConfigError(f"{called} is not valid YAML: {error}") from error
    if not isinstance(loaded, dict | None):
        raise ConfigError(
            f"{called} must hold `section: {{name: value}}` pairs at the top, not a {type(loaded).__name__}"
        )
    return loaded or {}


def _assign(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for depth, part in enumerate(path[:-1], 1):
        values = _section(values, part, f"--set {override}: {'.'.join(path[:depth])}")
    values[path[-1]] = value


def _section(values: dict[str, Any], name: str, called: str) -> dict[str, Any]:
    """The section of this name, made where it is missing or, as when all its lines are comments, empty."""
    if values.get(name) is None:
        values[name] = {}
    section = values[name]
    if not isinstance(section, dict):
        raise ConfigError(f"{called}: must hold `name: value` pairs, not {section!r}")
    return section


# What to do about pydantic's errors, by type. The only pattern is that of `name`.
_HOW_TO_WRITE = {
    "string_type": "; in quotation marks it is text",
    "list_type": "; a list is written [a, b]",
    "dict_type": "; write it as {name: value}",
    "bool_parsing": "; write true or false",
    "string_pattern_mismatch": "; small letters, digits, _ and -, with a letter first",
}


def _explain(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        name = ".".join(map(str, error["loc"]))
        meant = setting_meant(name, {"": Config.model_fields, **SETTINGS})
        return f"no such setting{meant or ' (`htr config` lists them all)'}"
    if error["type"] == "value_error":  # of a validator above
        return str(error["ctx"]["error"])
    hint = _HOW_TO_WRITE.get(error["type"], "")
    if error["type"] == "literal_error":
        hint = did_you_mean(str(error["input"]), re.findall("'([^']+)'", error["ctx"]["expected"]))
    return f"{error['msg']} (got {error.get('input')!r}{hint})"


def as_yaml(config: Config) -> str:
    """The configuration as YAML, every setting with its meaning: what `load` reads."""
    lines = ["# Settings of htr. Relative paths begin in the folder in which a command runs, those with ~ at home."]
    # Settings outside of a section come first: YAML has no other place for them.
    fields = sorted(Config.model_fields.items(), key=lambda item: isinstance(item[1].default, Section))
    for name, field in fields:
        value = getattr(config, name)
        if isinstance(value, Section):
            lines += ["", f"# {(type(value).__doc__ or '').strip()}", f"{name}:"]
            settings = {setting: getattr(value, setting) for setting in type(value).model_fields}
            if isinstance(value, TransformConfig) and (value.height, value.width) == SIZES[value.preset]:
                settings |= {"height": None, "width": None}  # so that they follow the preset when that is changed
            lines += [_setting(setting, settings[setting], f, "  ") for setting, f in type(value).model_fields.items()]
        else:
            lines.append(_setting(name, value, field, ""))
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A setting's value as YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.strip().removesuffix("\n...")


def _setting(name: str, value: Any, field: FieldInfo, indent: str) -> str:
    text = f"{indent}{name}: {_value(value)}"
    meaning = "; ".join(filter(None, [field.description, _permitted(field.annotation)]))
    return f"{text:<40s}  # {meaning}" if meaning else text


def _permitted(kind: Any) -> str:
    """The values that a setting of this type may have, where its type lists them; else nothing."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of: {', '.join(map(str, inner))}"
    found = next(filter(None, map(_permitted, inner)), "")
    return f"each {found}" if found and get_origin(kind) is list else found
