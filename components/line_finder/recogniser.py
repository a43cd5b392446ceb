"""Which recogniser reads the lines that the gate compares. No TFX or TensorFlow here."""

from __future__ import annotations

from components.base_model import packing
from components.common.versions import misplaced, model_at
from components.line_finder.settings import BASE, NEWEST, LineGateConfig


class LineGateError(RuntimeError):
    """The gate cannot ask what it should; the message says what to do."""


def model_for_lines(gate: LineGateConfig, model_dir: str) -> str:
    """Finds the version that transcribes the lines.

    Args:
        gate: Section `line_gate`.
        model_dir: Directory of the recogniser's versions.

    Raises:
        LineGateError: There is none where the section says, or one that finds lines.
        OSError: The base model cannot be unpacked.
    """
    given = gate.recogniser
    if given not in (NEWEST, BASE):
        version = model_at(given)
        if version is None:
            raise LineGateError(
                f"line_gate.recogniser: {given} is neither a version of a model nor a directory with versions"
            )
        if wrong := misplaced(version, "recogniser"):
            raise LineGateError(f"line_gate.recogniser: {wrong}")
        return version
    version = model_at(model_dir) if given == NEWEST else None
    try:
        return version or packing.unpack("line")
    except packing.BaseModelError as error:
        raise LineGateError(f"line_gate.recogniser: {error}") from error
