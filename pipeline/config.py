"""The one configuration of a run: every setting of every stage, typed, with its default and its meaning.

A configuration is read from YAML (`load`), changed on the command line (`--set gate.max_cer=0.05`) and
recorded with the model it made. Unknown names and impossible values are refused with the name of the setting and, where
one resembles it, of the setting that was probably meant.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal
from unicodedata import normalize

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipeline.engine_config import AirflowConfig, BeamConfig, KubeflowConfig
from pipeline.fractions import Fraction
from pipeline.section import Section
from pipeline.suggestions import did_you_mean, setting_meant


class ConfigError(ValueError):
    """A setting is unknown or impossible; the message names it and says what is allowed."""


class DataConfig(Section):
    """What to read, and which rows to refuse."""

    paths: list[str] = Field([], description="dataset folders, each with CSV/TSV files and pictures")
    image_column: str | None = Field(None, description="column with the picture's path; found by common names if unset")
    text_column: str | None = Field(None, description="column with the label; found by common names if unset")
    writer_column: str | None = Field(
        None, description="column with the writer; `writer` if present, where unset; none: writers are unknown"
    )
    split_column: str | None = Field(
        None, description="column with the split; `split` if present, where unset; none: no column says it"
    )
    encoding: str = Field("utf-8", description="encoding of the CSV files; a byte order mark overrides it")
    placeholders: list[str] = Field(
        ["EMPTY", "UNREADABLE", "#N/A", "NaN"], description="labels that stand for 'no text', in any case; [] for none"
    )
    allow_outside: bool = Field(
        False, description="read pictures and label files outside of the folders too: absolute paths, .., links"
    )
    alphabet: str | None = Field(None, description="allowed characters; every character of the labels if unset")
    max_megapixels: float = Field(50.0, gt=0, description="larger pictures are rejected before they are decoded")
    max_rejected: Fraction = Field(0.1, description="rejected share of rows above which the run fails")
    validation_fraction: Fraction = Field(
        0.1, gt=0, lt=0.5, description="share of writers (or pictures) that training watches"
    )
    eval_fraction: Fraction = Field(
        0.1, gt=0, lt=0.5, description="share of writers (or pictures) that the gate judges"
    )
    split_salt: str = Field("", description="change it to draw other splits")
    limit: int | None = Field(
        None, ge=1, description="rows that are used, a part with the same writers and splits; all if unset"
    )

    @field_validator("split_salt", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @field_validator("alphabet", "placeholders")
    @classmethod
    def _compose(cls, value: list[str] | str | None) -> list[str] | str | None:
        """NFC, as labels are."""
        if isinstance(value, list):
            return [normalize("NFC", text) for text in value]
        return None if value is None else normalize("NFC", value)


_SIZES = {"word": (32, 128), "line": (64, 1600)}  # height and width of the presets


class TransformConfig(Section):
    """How a picture becomes a tensor."""

    preset: Literal["word", "line"] = Field("word", description="word: fixed width; line: variable width")
    height: int | None = Field(None, ge=16, le=256, description="rows of the image tensor; 32 (word), 64 (line)")
    width: int | None = Field(
        None, ge=32, le=8192, multiple_of=4, description="columns, at most; 128 (word), 1600 (line)"
    )
    resize: Literal["pad", "stretch"] = Field("pad", description="keep the aspect ratio and pad, or fill the tensor")
    contrast: bool = Field(True, description="spread each picture's own ink and paper levels over 0..1")

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            height, width = _SIZES.get(values.get("preset", "word"), _SIZES["word"])
            values = {**values}
            values["height"] = height if values.get("height") is None else values["height"]
            values["width"] = width if values.get("width") is None else values["width"]
        return values


class ModelConfig(Section):
    """The network: convolutions, recurrent layers, CTC."""

    filters: list[Annotated[int, Field(ge=1)]] = Field(
        [24, 48, 96, 128, 192], min_length=3, description="channels of the convolution stages"
    )
    recurrent_units: int = Field(128, ge=8, description="units of each direction of the recurrent layers")
    recurrent_layers: int = Field(2, ge=1, le=6, description="bidirectional LSTM layers")
    dropout: Fraction = Field(0.2, lt=0.9, description="before each recurrent layer and the classes")


class TrainConfig(Section):
    """How the network is trained."""

    epochs: int | None = Field(
        None, ge=1, description="passes over the training images, at most; by their number if unset, 30 for 5,000"
    )
    batch_size: int = Field(16, ge=1, description="pictures of one optimiser step")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="peak, which decays along a cosine to a hundredth; 0.002 if unset, 0.0005 with warm_start",
    )
    warmup_epochs: float = Field(0.5, ge=0, description="epochs in which the learning rate rises")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW; biases and normalisation are left out")
    clip_norm: float = Field(5.0, gt=0, description="gradients are clipped to this global norm")
    shortcut: float = Field(0.3, ge=0, description="weight of the loss of the head that skips the recurrent layers")
    average_epochs: float = Field(1.0, ge=0, description="span of the moving average of the weights that is kept")
    augment: float = Field(0.5, ge=0, le=3, description="strength of the random distortions; 0 switches them off")
    augmentations: list[Literal["affine", "elastic", "stroke", "contrast", "noise", "cutout"]] = Field(
        ["affine", "elastic", "stroke", "contrast", "noise", "cutout"], description="which distortions"
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better validation CER before training stops; 40 % of all if unset"
    )
    shuffle_buffer: int = Field(4096, ge=1, description="pictures held in memory for shuffling")
    warm_start: str | None = Field(None, description="version directory of a model whose weights are the start")
    freeze: list[Literal["convolutions", "recurrent"]] = Field([], description="layers that keep their weights")
    checkpoint_minutes: float = Field(
        5.0, gt=0, description="a training that is killed goes on from its last epoch or from so many minutes before"
    )
    mixed_precision: bool = Field(True, description="float16 on GPUs that have it; the loss stays float32")
    seed: int = Field(1, ge=0, lt=2**32, description="of weights, shuffling and distortions")


class TuneConfig(Section):
    """Search for better hyper-parameters before training: learning rate, augmentation, dropout, recurrent units."""

    trials: int = Field(0, ge=0, description="short trainings that are compared; 0 leaves the search out")
    epochs: int | None = Field(None, ge=1, description="of each of them; a fifth of the training's if unset")


# Features whose values `gate.slice_max_cer` may bound; the CER of each is computed.
SLICES = ("writer", "length_band", "source")


class GateConfig(Section):
    """When a model may ship. Fractions such as 0.05 or 5%."""

    max_cer: Fraction | None = Field(
        0.10, description="upper end of the CER's confidence interval must not exceed it; null: off"
    )
    max_cer_increase: Fraction | None = Field(
        0.005, description="allowed increase over the CER of the model in service, same images; null: off"
    )
    confidence_level: Fraction = Field(0.95, gt=0, lt=1, description="of the bootstrap interval")
    slice_max_cer: dict[str, Fraction] = Field(
        {}, description="bounds for slices, e.g. {'writer=7': 0.2} or {'length_band': 0.3} for each band"
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
    def _known_slices(cls, bounds: dict[str, Fraction]) -> dict[str, Fraction]:
        unknown = [name for name in bounds if name.partition("=")[0] not in SLICES]
        if unknown:
            key = unknown[0].partition("=")[0]
            raise ValueError(
                f"{unknown[0]} is no slice; there are {', '.join(SLICES)}, and values such as writer=7"
                f"{did_you_mean(key, SLICES)}"
            )
        return bounds


class PushConfig(Section):
    """Where blessed models go."""

    model_dir: str | None = Field(
        None, description="base directory of the servable; <workspace>/serving_model/<name> if unset"
    )
    keep_versions: int = Field(5, ge=1, description="older versions are deleted after a push")
    server_command: list[str] = Field(
        [],
        description="model server of the serving check, e.g. [tensorflow_model_server]; the embedded one if empty",
    )


class CardConfig(Section):
    """What the model card says besides figures."""

    intended_use: str = Field(
        "Transcribing pictures like those it was trained on, as a draft where errors are looked for by a person. Not "
        "meant for decisions about people without one.",
        description="what the model is for, and what not",
    )
    data_licence: str | None = Field(None, description="licence of the training data")
    contact: str | None = Field(None, description="whom to ask about the model")


# What `drift.thresholds` may name: features of the curated schema, and measures of their own.
DRIFT_MEASURES = ("width", "height", "text_length", "paper_level", "ink_level", "ink_share", "sharpness", "confidence",
                  "characters", "new_characters", "rejected")  # fmt: skip


class DriftConfig(Section):
    """How far data may move: from one run to the next (`htr run`), and against a run or a folder (`htr drift`)."""

    fail: bool = Field(False, description="drift ends the command with exit code 5 instead of a warning")
    thresholds: dict[str, Fraction] = Field(
        {}, description="by measure, instead of those of the curated schema, e.g. {sharpness: 0.3}"
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


class BulkConfig(Section):
    """New pictures that the pipeline transcribes with a blessed model (step BulkInferrer)."""

    folder: str | None = Field(None, description="with pictures, at any depth; there is no such step if unset")
    format: Literal["jsonl", "csv"] = Field("jsonl", description="of the texts")
    batch_size: int = Field(64, ge=1, description="pictures of one call of the model")


class Config(Section):
    """All settings of a run."""

    name: str = Field("htr", pattern=r"^[a-z][a-z0-9_-]*$", description="name of the pipeline and of the servable")
    workspace: str = Field("workspace", description="folder of everything that a local run makes")
    data: DataConfig = DataConfig()
    transform: TransformConfig = TransformConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    gate: GateConfig = GateConfig()
    push: PushConfig = PushConfig()
    card: CardConfig = CardConfig()
    drift: DriftConfig = DriftConfig()
    bulk: BulkConfig = BulkConfig()
    beam: BeamConfig = BeamConfig()
    airflow: AirflowConfig = AirflowConfig()
    kubeflow: KubeflowConfig = KubeflowConfig()

    @model_validator(mode="after")
    def _rows_for_all_stages(self) -> Config:
        stages, height = len(self.model.filters), self.transform.height or 0
        if height < 2 ** (stages - 1):
            raise ValueError(
                f"model.filters: {stages} stages, of which each but the first halves the rows, leave none of the "
                f"{height} of transform.height"
            )
        return self

    @property
    def model_dir(self) -> str:
        """Directory that a model server watches: numbered versions lie directly below it."""
        return self.push.model_dir or str(Path(self.workspace) / "serving_model" / self.name)


# Names of the settings by section.
SETTINGS = {
    name: list(type(field.default).model_fields)
    for name, field in Config.model_fields.items()
    if isinstance(field.default, Section)
}

# Settings that are paths or lists of them, besides the workspace.
PATHS = (
    ("data", "paths"), ("train", "warm_start"), ("push", "model_dir"), ("bulk", "folder"), ("beam", "setup_file"),
    ("beam", "extra_packages"),
)  # fmt: skip


def load(path: str | None = None, overrides: list[str] | None = None, **settings: Any) -> Config:
    """Reads a configuration.

    Args:
        path: YAML file, "-" for standard input, or None for the defaults.
        overrides: `section.name=value` strings; the value is YAML (`0.1`, `[a, b]`, `null`).
        **settings: top-level values and sections that win over file and overrides.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: naming the setting that is unknown or has an impossible value.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = _read(path)
    for override in overrides or []:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {override}: write it as section.name=value, for example gate.max_cer=0.05")
        try:
            _assign(values, name.strip().split("."), yaml.safe_load(text), override)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not valid YAML") from error
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


def _read(path: str) -> dict[str, Any]:
    called = "standard input" if path == "-" else path
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            loaded = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {called}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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


def _explain(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        name = ".".join(map(str, error["loc"]))
        meant = setting_meant(name, {"": Config.model_fields, **SETTINGS})
        return f"no such setting{meant or ' (`htr config` lists them all)'}"
    if error["type"] == "value_error":  # of a validator above
        return str(error["ctx"]["error"])
    hint = "; in quotation marks it is text" if error["type"] == "string_type" else ""
    if error["type"] == "literal_error":
        hint = did_you_mean(str(error["input"]), re.findall("'([^']+)'", error["ctx"]["expected"]))
    return f"{error['msg']} (got {error.get('input')!r}{hint})"


def as_yaml(config: Config) -> str:
    """The configuration as YAML, every setting with its meaning: what `load` reads."""
    lines = ["# Settings of htr. Relative paths begin in the folder in which a command runs."]
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            lines += ["", f"# {(type(value).__doc__ or '').strip()}", f"{name}:"]
            settings = {setting: getattr(value, setting) for setting in type(value).model_fields}
            if isinstance(value, TransformConfig) and (value.height, value.width) == _SIZES[value.preset]:
                settings |= {"height": None, "width": None}  # so that they follow the preset when that is changed
            lines += [_setting(setting, settings[setting], f.description, "  ")
                      for setting, f in type(value).model_fields.items()]  # fmt: skip
        else:
            lines.append(_setting(name, value, field.description, ""))
    return "\n".join(lines) + "\n"


def _setting(name: str, value: Any, description: str | None, indent: str) -> str:
    text = f"{indent}{name}: {yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()}"
    text = text.removesuffix("\n...")
    return f"{text:<40s}  # {description}" if description else text
