"""What a network sees in images of a split, to try language models on."""

from __future__ import annotations

import hashlib
import heapq
from itertools import islice
from operator import itemgetter
from typing import Any

from components.common.ahead import NETWORK_THREADS, ahead
from components.common.calibration import MOST_NUMBERS
from components.example_gen.examples import records
from components.language.learning import Recorded
from components.recogniser.model import ExportedModel

MOST_IMAGES = 2000


def record(model: ExportedModel, examples_uri: str, split: str) -> list[Recorded]:
    """Log-probabilities and labels of images, of a large split the same ones in every run.

    Args:
        model: The network.
        examples_uri: URI of the Examples artifact.
        split: Name of the split.
    """
    # Two passes: the files of all chosen images may be photos, which would not fit into memory together.
    last = heapq.nsmallest(MOST_IMAGES, (_drawn(example) for example in records(examples_uri, split)))[-1:]
    chosen = (example for example in records(examples_uri, split) if _drawn(example) <= last[0])

    def seen(batch: list[dict[str, Any]]) -> list[tuple[bytes, Recorded]]:
        log_probs, frames = model.log_probs([example["image"] for example in batch])
        rows = zip(log_probs, frames, batch, strict=True)
        return [(_drawn(example), Recorded(row[:valid].copy(), example["text"])) for row, valid, example in rows]

    found: list[tuple[bytes, Recorded]] = []
    numbers = 0
    for rows in ahead(seen, iter(lambda: list(islice(chosen, model.batch_size)), []), NETWORK_THREADS):
        found = sorted(found + rows, key=itemgetter(0))
        numbers += sum(recorded.log_probs.size for _, recorded in rows)
        while numbers > MOST_NUMBERS and len(found) > 1:
            numbers -= found.pop()[1].log_probs.size
    return [recorded for _, recorded in found]


def _drawn(example: dict[str, Any]) -> bytes:
    return hashlib.sha256(example["id"].encode()).digest()
