"""Names in a directory of numbered versions, which model servers and the pipeline understand alike."""

from __future__ import annotations

import os
import re

# Servers look at numeric names only, so what `htr rollback` has withdrawn lies beside the versions in service.
WITHDRAWN = ".withdrawn-"
# Beside each version, as `NUMBER.metrics.json`: its figures, its card, and which images it has learnt from. Within it
# they would make it another model.
METRICS_FILE, CARD_FILE, LEARNT_FILE = "metrics.json", "model_card.md", "learnt_images"
# Within a version: its graph and signatures. Whoever copies a version writes it last.
GRAPH_FILE = "saved_model.pb"
# Within a version of this pipeline: its alphabet, its settings.
SETTINGS_FILE = os.path.join("assets.extra", "htr.json")
# Requests that a server answers before it serves the version, as TensorFlow Serving wants them.
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
# Its language model, which the signature `language_model` hands out; empty where it has none.
LANGUAGE_MODEL_FILE = os.path.join("assets", "language_model")


def number_of(name: str) -> int | None:
    """The version that a folder of this name holds, withdrawn or not; None for anything else."""
    number = name.removeprefix(WITHDRAWN)
    return int(number) if re.fullmatch(r"[0-9]{1,18}", number) else None


def find_versions(base_path: str) -> dict[int, str] | None:
    """The versions on this machine's disk that a server sees.

    Args:
        base_path: Directory of the numbered versions.

    Returns:
        Directory by number, rising; None if the path is not there.
    """
    try:
        names = os.listdir(base_path)
    except OSError:
        return None
    found, gone = {}, False
    for name in sorted(names):
        number, path = number_of(name), os.path.join(base_path, name)
        if number is not None and not name.startswith(WITHDRAWN):
            if os.path.isdir(path):
                found[number] = path
            elif not os.path.lexists(path):
                gone = True
    if gone and not os.path.isdir(base_path):
        return None  # it went away while it was looked at
    return dict(sorted(found.items()))


def nothing_pushed(model_dir: str, options: str = "") -> str:
    """What commands say about a model directory without versions.

    Args:
        model_dir: Directory of the numbered versions.
        options: What `htr run` needs besides.
    """
    return f"No version has been pushed to {model_dir} yet: htr run{options} first."
