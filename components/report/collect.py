"""Reads what the report is about: the examples of all splits, and the texts of the evaluation split.

Examples are streamed; of the images only those that are shown stay in memory.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from components.evaluator.kept_texts import BASELINE, CANDIDATE
from components.example_gen.examples import records
from components.example_gen.measures import NUMBERS
from components.example_gen.splits import SPLITS
from components.recogniser.decoders import BEST_PATH, DEFAULT
from components.recogniser.located import located
from components.recogniser.model import ExportedModel
from components.report import analysis
from components.report.material import CloseLook, Split
from htr_client.decoding import align
from htr_client.image_files import load


def read_splits(examples_uri: str) -> tuple[dict[str, Split], str]:
    """Reads all splits.

    Args:
        examples_uri: URI of the Examples artifact.

    Returns:
        The splits by name, and a digest of ids, labels and images: the same for the same data in any order and place.
    """
    splits, digests = {}, []
    for name in SPLITS:
        split, numbers = Split(), []
        for record in records(examples_uri, name):
            image = hashlib.sha256(record["image"]).digest()
            digests.append(hashlib.sha256(f"{name}\0{record['id']}\0{record['text']}\0".encode() + image).digest())
            split.samples += 1
            split.writers[record["writer"]] += 1
            split.characters.update(record["text"])
            split.images.setdefault(image, (record["text"], record["id"]))
            numbers.append([record[column] for column in NUMBERS])
        table = np.array(numbers, np.float32).reshape(-1, len(NUMBERS))
        split.numbers = {column: table[:, i] for i, column in enumerate(NUMBERS)}
        splits[name] = split
    return splits, hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def predictions(
    examples_uri: str, readings: dict[str, dict[str, Any]], compared: bool, decoder: str = DEFAULT
) -> pd.DataFrame:
    """Puts the images of the evaluation split and their texts together.

    Args:
        examples_uri: URI of the Examples artifact.
        readings: What Evaluator has kept, see `components.evaluator.kept_texts`.
        compared: Whether there is a model to compare with.
        decoder: Name of the decoder whose texts are the predictions, as in `gate.decoder`.

    Returns:
        A table of predictions, see `components.report.analysis`.
    """
    rows: list[dict[str, Any]] = []
    for record in records(examples_uri, "eval"):
        del record["image"]
        read = readings[record["id"]]
        text, confidence = read[CANDIDATE][decoder]
        before = read[BASELINE][decoder][0] if compared else ""
        predicted = {"prediction": text, "confidence": confidence, "best_path": read[CANDIDATE][BEST_PATH][0]}
        rows.append({**record, **predicted, "baseline": before})
    columns = [*analysis.TEXT_COLUMNS, *analysis.NUMBER_COLUMNS]
    return analysis.count_edits(pd.DataFrame(rows, columns=columns), compared)


def look_closely(
    examples_uri: str, model: ExportedModel, texts: dict[int, str], decoder: str = DEFAULT
) -> dict[int, CloseLook]:
    """Reads some images of the evaluation split again, this time keeping what the model saw in each frame.

    Args:
        examples_uri: URI of the Examples artifact.
        model: Model to read with.
        texts: Labels by the image's place in the split.
        decoder: As for `predictions`.

    Returns:
        Readings by place.
    """
    stream = records(examples_uri, "eval")
    images = {place: record["image"] for place, record in enumerate(stream) if place in texts}
    readings = {}
    places = sorted(images)
    for start in range(0, len(places), model.batch_size):
        batch = places[start : start + model.batch_size]
        log_probs, frames = model.log_probs([images[place] for place in batch])
        labels = [model.alphabet.encode(texts[place], skip_unknown=True) for place in batch]
        aligned = align(log_probs, frames, labels)
        decoded = model.decoder(decoder).decode(log_probs, frames, model.alphabet)
        for i, place in enumerate(batch):
            ways = list(zip(labels[i], aligned[i], strict=True)) if aligned[i] else []
            truth = [(model.alphabet[c], p, run) for c, (run, p) in ways]
            read = [(c.text, c.confidence, c.span) for c in decoded[i].characters]
            probabilities = np.exp(log_probs[i, : frames[i]])
            image, valid = images[place], int(frames[i])
            grey = load(image)
            readings[place] = CloseLook(
                image, probabilities, model.alphabet, located(read, grey, valid), located(truth, grey, valid)
            )
    return readings
