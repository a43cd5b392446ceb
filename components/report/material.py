"""What a report is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from components.evaluator.verdict import Verdict
from components.report.settings import RunSettings
from htr_client.decoding import Alphabet


@dataclass
class Split:
    """What one split holds.

    Attributes:
        samples: Number of images.
        writers: Images by writer; those of unknown writers under "".
        characters: Occurrences in the labels.
        numbers: float32 [samples] by name in `NUMBERS`.
        images: First label and id by SHA-256 of the image's file.
    """

    samples: int = 0
    writers: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[bytes, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class CloseLook:
    """How a model transcribed one image, frame by frame.

    Attributes:
        image: Encoded image.
        probabilities: float32 [frames, C] of the valid frames; the blank is the last class.
        alphabet: Alphabet of the model.
        read: Characters of the prediction with confidence and span as shares of the image's width.
        truth: Characters of the label that the model can write, with span and highest probability in it; empty where
            the frames cannot carry the label.
    """

    image: bytes
    probabilities: np.ndarray
    alphabet: Alphabet
    read: Sequence[tuple[str, float, tuple[float, float]]]
    truth: Sequence[tuple[str, float, tuple[float, float]]]


@dataclass(frozen=True)
class Material:
    """Everything that a report is made of.

    Attributes:
        config: Settings of the run.
        verdict: Verdict of the Evaluator.
        predictions: Table of predictions on the evaluation split.
        splits: What each split holds.
        digest: Digest of the data.
        alphabet: Alphabet of the model, in class order.
        settings: Settings that the model was trained with (`htr.json`).
        model_bytes: Size of the weights.
        readings: Close looks at the images that are shown, by row of `predictions`.
        history: History of the training, by epoch.
        counts: Counts of ExampleGen, see `read_counts`.
        rejects: Rows of `rejects.csv`.
        anomalies: (severity, sentence) of ExampleValidator.
        augmented: A sheet of augmented training images as PNG, if the Trainer wrote one.
        unalignable: Number of training images with fewer frames than their labels need, which were left out.
        baseline: Settings (`htr.json`) of the model that the candidate is compared with.
        seen_before: How many evaluation images the "start" of the training and the "baseline" have learnt from, as far
            as it is known.
        run_id: Identifier that the orchestrator gave the run.
    """

    config: RunSettings
    verdict: Verdict
    predictions: pd.DataFrame
    splits: Mapping[str, Split]
    digest: str
    alphabet: Sequence[str]
    settings: Mapping[str, Any]
    model_bytes: int
    readings: Mapping[int, CloseLook]
    history: Sequence[Mapping[str, Any]]
    counts: Mapping[str, Any]
    rejects: Sequence[Mapping[str, str]] = ()
    anomalies: Sequence[tuple[str, str]] = ()
    augmented: bytes | None = None
    unalignable: int = 0
    baseline: Mapping[str, Any] | None = None
    seen_before: Mapping[str, int] = field(default_factory=dict)
    run_id: str = ""

    @property
    def shared_writers(self) -> Counter[str]:
        """Evaluation images by those of their writers who also wrote images of the other splits."""
        evaluated = self.splits.get("eval", Split()).writers
        learnt = {writer for name, split in self.splits.items() if name != "eval" for writer in split.writers}
        return Counter({writer: images for writer, images in evaluated.items() if writer and writer in learnt})
