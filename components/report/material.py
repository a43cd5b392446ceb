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
        samples: number of images.
        writers: images by writer; those of unknown writers under "".
        characters: occurrences in the labels.
        numbers: float32 [samples] by name in `NUMBERS`.
        images: first label and id by SHA-256 of the image's file.
    """

    samples: int = 0
    writers: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[bytes, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """How a model read one image, frame by frame.

    Attributes:
        image: encoded.
        probabilities: float32 [frames, C] of the valid frames; the blank is the last class.
        alphabet: of the model.
        read: characters of the prediction with confidence and span as shares of the image's width.
        truth: characters of the label that the model can write, with span and highest probability in it; empty where
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
        config: of the run.
        verdict: of the Evaluator.
        predictions: table of predictions on the evaluation split.
        splits: what each split holds.
        digest: of the data.
        alphabet: of the model, in class order.
        settings: that the model was trained with (`htr.json`).
        model_bytes: size of the weights.
        readings: close looks at the images that are shown, by row of `predictions`.
        history: of the training, by epoch.
        counts: of ExampleGen, see `read_counts`.
        rejects: rows of `rejects.csv`.
        anomalies: (severity, sentence) of ExampleValidator.
        augmented: a sheet of augmented training images as PNG, if the Trainer wrote one.
        unalignable: number of training images with fewer frames than their labels need, which were left out.
        baseline: settings (`htr.json`) of the model that the candidate is compared with.
        run_id: of the orchestrator.
    """

    config: RunSettings
    verdict: Verdict
    predictions: pd.DataFrame
    splits: Mapping[str, Split]
    digest: str
    alphabet: Sequence[str]
    settings: Mapping[str, Any]
    model_bytes: int
    readings: Mapping[int, Reading]
    history: Sequence[Mapping[str, Any]]
    counts: Mapping[str, Any]
    rejects: Sequence[Mapping[str, str]] = ()
    anomalies: Sequence[tuple[str, str]] = ()
    augmented: bytes | None = None
    unalignable: int = 0
    baseline: Mapping[str, Any] | None = None
    run_id: str = ""
