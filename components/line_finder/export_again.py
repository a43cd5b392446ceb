"""An exported line finder once more, with the graph of the code as it is now; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

from components.line_finder.export import ServedLineFinder, save
from components.line_finder.model import build, take_weights
from components.line_finder.settings import LineFinderConfig
from serving.version_directory import SETTINGS_FILE


def export_again(version: str, target: str) -> None:
    """Exports the weights of a version with the code as it is now; its settings are the same.

    Args:
        version: Directory of the version.
        target: Directory of the new one.
    """
    facts = json.loads(Path(version, SETTINGS_FILE).read_text("utf-8"))
    config = LineFinderConfig.model_validate(facts.pop("line_finder"))
    network = build(config)
    take_weights(network, version)
    save(ServedLineFinder(network, config), target, config, facts)
