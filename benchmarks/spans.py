"""How far the spans of characters are from where the characters are.

Renders words as the sample data does, in other writers' handwriting, whose characters are known to the pixel. A model
transcribes them; of those that are right and sure, the middles of spans are compared with the middles of the
characters' ink, by the rule of `htr_client.spans` and by the plain frames in which the model fires.

    python -m benchmarks.spans --model demo/workspace/serving_model/htr/VERSION

`--record FILE` keeps what was compared; `tests/client/spans.json` holds some of it, of three models.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from components.recogniser.model import ExportedModel
from components.tools.sample_data.fonts import FONTS, load_glyphs
from components.tools.sample_data.render import make_writer, render_with_extents
from components.tools.sample_data.words import WORDS
from htr_client.decoding import BestPath
from htr_client.image_files import load
from htr_client.spans import pixel_spans
from htr_client.suspicion import look


class Transcribed(NamedTuple):
    """A word that the model transcribes correctly.

    Attributes:
        runs: First frame of each character and the frame after its last one.
        frames: Number of valid frames.
        width: Width of the image in pixels.
        ink: Left and right edge of the ink in pixels.
        extents: Left and right edge of each character in pixels.
    """

    runs: list[tuple[int, int]]
    frames: int
    width: int
    ink: tuple[float, float]
    extents: list[tuple[float, float]]


def plain_frames(word: Transcribed) -> list[tuple[float, float]]:
    """Spans as they were before there was a rule: the frames of each run, in pixels."""
    return [(a * word.width / word.frames, b * word.width / word.frames) for a, b in word.runs]


def by_rule(word: Transcribed) -> list[tuple[float, float]]:
    """Spans as client, page and report give them."""
    return pixel_spans(word.runs, word.frames, word.width, word.ink)


def transcribe(model: ExportedModel, count: int, seed: int, confidence: float) -> list[Transcribed]:
    """Renders words and transcribes them.

    Args:
        model: The model.
        count: How many words to render.
        seed: Where the random numbers start.
        confidence: Words with less confidence are left out.

    Returns:
        The words that are transcribed correctly.
    """
    rng = np.random.default_rng(seed)
    found: list[Transcribed] = []
    for start in range(0, count, model.batch_size):
        texts: list[str] = []
        images: list[bytes] = []
        extents = []
        while len(texts) < min(model.batch_size, count - start):
            font, text = FONTS[rng.integers(len(FONTS))], WORDS[rng.integers(len(WORDS))]
            if not load_glyphs(font).can_write(text):
                continue
            drawn, edges = render_with_extents(text, make_writer("writer", font, rng), rng)
            texts.append(text)
            extents.append(edges)
            images.append(cv2.imencode(".png", drawn)[1].tobytes())
        log_probs, frames = model.log_probs(images)
        decoded = BestPath().decode(log_probs, frames, model.alphabet)
        for text, image, edges, result, valid in zip(texts, images, extents, decoded, frames.tolist(), strict=True):
            known = [edge for edge in edges if edge is not None]
            if result.text == text and result.confidence >= confidence and len(known) == len(text):
                grey = load(image)
                runs = [character.span for character in result.characters]
                found.append(Transcribed(runs, valid, grey.shape[1], look(grey).ink, known))
    return found


def errors(words: Sequence[Transcribed], rule: Callable[[Transcribed], list[tuple[float, float]]]) -> list[list[float]]:
    """Signed distances of the spans' middles from the characters' middles.

    Args:
        words: The words.
        rule: How spans are computed.

    Returns:
        For each word one number a character, in average widths of a character of that word; positive to the right.
    """
    found = []
    for word in words:
        pitch = (word.extents[-1][1] - word.extents[0][0]) / len(word.extents)
        pairs = zip(rule(word), word.extents, strict=True)
        found.append([(sum(span) - sum(extent)) / 2 / pitch for span, extent in pairs])
    return found


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a SavedModel trained on sample data")
    parser.add_argument("--words", type=int, default=600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--confidence", type=float, default=0.9, help="least confidence of the words that count")
    parser.add_argument("--record", metavar="FILE", help="JSON file for the words, in the fields' order of Transcribed")
    args = parser.parse_args()
    words = transcribe(ExportedModel(args.model), args.words, args.seed, args.confidence)
    if not words:
        parser.error("the model transcribes none of the words with that confidence")
    if args.record:
        with open(args.record, "w") as file:
            json.dump(words, file)
    print(f"{len(words)} of {args.words} words; in widths of a character\n")
    print("| rule | mean | mean absolute | 95 % below | first character | last character |\n|---|---|---|---|---|---|")
    for name, rule in (("frames of the runs", plain_frames), ("htr_client.spans", by_rule)):
        by_word = errors(words, rule)
        every = np.concatenate(by_word)
        first, last = (float(np.mean([word[i] for word in by_word])) for i in (0, -1))
        off = np.abs(every)
        print(
            f"| {name} | {every.mean():+.3f} | {off.mean():.3f} | {np.quantile(off, 0.95):.3f} | {first:+.3f} "
            f"| {last:+.3f} |"
        )


if __name__ == "__main__":
    main()
