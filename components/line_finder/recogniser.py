"""Which recogniser transcribes the lines that the gate compares. No TFX or TensorFlow here."""

from __future__ import annotations

from components.base_model import packing
from components.common.in_service import VersionError, model_in_service
from components.common.versions import NoVersionError, named_version
from components.line_finder.settings import BASE, IN_SERVICE, LineGateConfig


class LineGateError(RuntimeError):
    """The gate cannot ask what it should; the message says what to do."""


def model_for_lines(gate: LineGateConfig, model_dir: str, name: str) -> str:
    """Finds the version that transcribes the lines.

    Args:
        gate: Section `line_gate`.
        model_dir: Directory of the recogniser's versions.
        name: Its name in the file of labels.

    Raises:
        LineGateError: There is none where the section says, or one that finds lines, or the labels cannot be read.
        OSError: The base model cannot be unpacked.
    """
    given = gate.recogniser
    if given not in (IN_SERVICE, BASE):
        try:
            return named_version(given, "recogniser")
        except NoVersionError as error:
            raise LineGateError(f"line_gate.recogniser: {error}") from error
    try:
        version = model_in_service(model_dir, name) if given == IN_SERVICE else None
        return version or packing.unpack("line")
    except (VersionError, packing.BaseModelError) as error:
        raise LineGateError(f"line_gate.recogniser: {error}") from error
