"""What the settings file of a version tells, `assets.extra/htr.json`. No TFX or TensorFlow here.

That of a recogniser, which Trainer writes, has

    alphabet             the characters of the classes, without the blank
    transform, model,    sections of the configuration as they were in the training, with what had been left open
    train
    start                where the training began, see `components.trainer.warm_start.Start.noted`
    temperature          by which the log-probabilities are divided
    best_validation_cer  CER of the exported network, best path; what the characters of its start add to it is that of
                         the first thousand validation images
    training             facts about the training, see `components.trainer.outcome.Outcome`
    language_model       facts about the language model, see `components.language.learning.Learnt`

and that of a line finder the section `line_finder`, `start` and `training`. Versions of earlier releases have fewer of
these.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from components.common import storage
from serving.version_directory import SETTINGS_FILE


def read(version: str) -> dict[str, Any]:
    """The settings of a version; none where it has no such file, so that this pipeline has not made it.

    Args:
        version: Directory of the version, here or in a bucket.

    Raises:
        ValueError: The file is damaged.
        OSError: It cannot be read.
    """
    path = os.path.join(version, SETTINGS_FILE)
    if not storage.exists(path):
        return {}
    settings: dict[str, Any] = json.loads(storage.read(path))
    return settings


def is_line_finder(settings: Mapping[str, Any]) -> bool:
    """Whether settings are those of a line finder."""
    return "line_finder" in settings
