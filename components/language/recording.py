"""What a network sees in images of a split, to try language models on."""

from __future__ import annotations

import hashlib
import heapq
from typing import Any

from components.common.ahead import NETWORK_THREADS, ahead
from components.example_gen.examples import records
from components.language.learning import Recorded
from components.recogniser.model import ExportedModel

# Images at most, and numbers that their log-probabilities may hold together.
MOST_IMAGES, _MOST_NUMBERS = 2000, 100_000_000


def record(model: ExportedModel, examples_uri: str, split: str) -> list[Recorded]:
    """Log-probabilities and labels of images, of a large split the same ones in every run.

    Args:
        model: The network.
        examples_uri: URI of the Examples artifact.
        split: Name of the split.
    """

    def drawn(example: dict[str, Any]) -> bytes:
        return hashlib.sha256(example["id"].encode()).digest()

    chosen = heapq.nsmallest(MOST_IMAGES, records(examples_uri, split), key=drawn)
    found: list[Recorded] = []
    numbers = 0
    batches = [chosen[start : start + model.batch_size] for start in range(0, len(chosen), model.batch_size)]
    images = ([example["image"] for example in batch] for batch in batches)
    for batch, (log_probs, frames) in zip(batches, ahead(model.log_probs, images, NETWORK_THREADS), strict=False):
        rows = zip(log_probs, frames, batch, strict=True)
        found += [Recorded(row[:valid].copy(), example["text"]) for row, valid, example in rows]
        numbers += int(frames.sum()) * log_probs.shape[2]
        if numbers > _MOST_NUMBERS:
            break
    return found
