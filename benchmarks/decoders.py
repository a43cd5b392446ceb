"""Compares decoders on a labelled dataset: character error rate and time per image.

Asks a running server for the log-probabilities of every image of the evaluation split once, then decodes them with
every decoder, in batches and one by one. The first language model is the one that the version brings. Lexicon and the
other language models are learnt from the labels of the training split: of other writers, where the data names the
writers. The splits are those of `htr run` on the same folder. Time is CPU time of this process.

    python -m benchmarks.decoders --server localhost:8500 --data FOLDER
"""

import argparse
import time
from collections.abc import Iterable, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from components.example_gen import dataset
from components.example_gen.settings import DataConfig
from components.transform.settings import TransformConfig
from htr_client import HtrClient
from htr_client.beam import PrefixBeamSearch, default_decoder
from htr_client.decoding import Alphabet, BestPath, Decoded, Decoder
from htr_client.language import CharacterModel, LanguageModel
from htr_client.lexicon import Lexicon


class Recorder:
    """A decoder that keeps what it is given; the text of a result is its place in the record."""

    def __init__(self) -> None:
        self.language_model: LanguageModel | None = None
        self.rows: list[np.ndarray] = []
        self.alphabet = Alphabet("")

    def of(self, language_model: LanguageModel | None) -> "Recorder":
        """The recorder itself, which keeps the version's language model."""
        self.language_model = language_model
        return self

    def decode(self, log_probs: np.ndarray, frames: np.ndarray, alphabet: Alphabet) -> list[Decoded]:
        """Keeps the valid frames of each row; see `Decoder.decode`."""
        self.alphabet = alphabet
        results = []
        for row, valid in zip(log_probs, frames.tolist(), strict=True):
            results.append(Decoded(str(len(self.rows)), 0.0, ()))
            self.rows.append(row[:valid].copy())
        return results


def read(config: DataConfig) -> tuple[list[tuple[bytes, str]], list[str]]:
    """Images and labels of the evaluation split, and the labels of the training split."""
    checked = list(dataset.examine_all(config, TransformConfig(preset="line")))
    samples = [sample for sample in checked if isinstance(sample, dataset.Sample)]
    return [(s.image, s.text) for s in samples if s.split == "eval"], [s.text for s in samples if s.split == "train"]


def record(server: str, model: str, images: Iterable[bytes]) -> tuple[Recorder, list[str | None]]:
    """Asks a server for the log-probabilities of images.

    Args:
        server: Address of the server.
        model: Name of the model.
        images: The images.

    Returns:
        The record, and the place of each image in it: None where an image could not be read, "" where nothing is
        written on it, for which clients give no text whatever the decoder says.
    """
    recorder = Recorder()
    # One request at a time: the record is in the order of decoding.
    with HtrClient(server, model, decoder=recorder.of, in_flight=1) as client:
        return recorder, [result.text if result.ok else None for result in client.transcribe_many(images)]


def error_rate(decoder: Decoder, alphabet: Alphabet, rows: Sequence[np.ndarray], labels: Sequence[str]) -> str:
    """Decodes everything in batches of 32, then some images one by one.

    Args:
        decoder: Decoder to measure.
        alphabet: Alphabet of the model.
        rows: float32 [frames, C] each.
        labels: The true texts.

    Returns:
        Three cells of a table: CER in per cent, milliseconds an image in batches, and alone.
    """
    decoder.decode(np.stack([rows[0]]), np.array([len(rows[0])]), alphabet)  # builds the tables
    edits, milliseconds = _decode(decoder, alphabet, rows, labels, 32)
    _, alone = _decode(decoder, alphabet, rows[:200], labels[:200], 1)
    return f"{100 * edits / sum(map(len, labels)):.2f} | {milliseconds:.2f} | {alone:.2f}"


def _decode(
    decoder: Decoder, alphabet: Alphabet, rows: Sequence[np.ndarray], labels: Sequence[str], size: int
) -> tuple[int, float]:
    """Edits, and milliseconds of CPU time an image."""
    edits, seconds = 0, 0.0
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        frames = np.array([len(row) for row in batch])
        log_probs = np.zeros((len(batch), frames.max(), len(alphabet) + 1), np.float32)
        for i, row in enumerate(batch):
            log_probs[i, : len(row)] = row
        started = time.process_time()
        results = decoder.decode(log_probs, frames, alphabet)
        seconds += time.process_time() - started
        edits += sum(
            Levenshtein.distance(label, result.text)
            for label, result in zip(labels[start : start + size], results, strict=True)
        )
    return edits, 1000 * seconds / len(rows)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="localhost:8500")
    parser.add_argument("--model", default="htr")
    parser.add_argument("--data", required=True, action="append", help="dataset folder, as for `htr run`")
    parser.add_argument("--limit", type=int, default=0, help="evaluate only so many images")
    parser.add_argument("--width", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--order", type=int, nargs="+", default=[5])
    parser.add_argument("--language-weight", type=float, nargs="+", default=[0.1, 0.3, 0.5])
    parser.add_argument("--unknown", type=float, nargs="+", default=[-3.0, -6.0], help="penalty of unknown words")
    args = parser.parse_args()

    samples, texts = read(DataConfig(paths=args.data))
    samples = samples[: args.limit or None]
    recorder, places = record(args.server, args.model, (image for image, _ in samples))
    good = [(int(place), text) for place, (_, text) in zip(places, samples, strict=True) if place]
    if not good:
        parser.error("no image could be transcribed")
    failed, empty = places.count(None), places.count("")
    rows, labels = [recorder.rows[i] for i, _ in good], [text for _, text in good]

    decoders: list[tuple[str, Decoder]] = [("best path", BestPath())]
    if recorder.language_model is not None:
        own = recorder.language_model
        name = f"the version's language model, weight {own.weight:g} (the clients' default)"
        decoders.append((name, default_decoder(own)))
    decoders += [(f"beam {width}", PrefixBeamSearch(width)) for width in args.width]
    decoders.append(("beam + strict lexicon", PrefixBeamSearch(lexicon=Lexicon.from_texts(texts))))
    for unknown in args.unknown:
        lexicon = Lexicon.from_texts(texts, unknown=unknown)
        decoders.append((f"beam + lexicon, unknown {unknown:g}", PrefixBeamSearch(lexicon=lexicon)))
    for order in args.order:
        model = CharacterModel(texts, order=order)
        for weight in args.language_weight:
            search = PrefixBeamSearch(language_model=model, language_weight=weight)
            decoders.append((f"beam + {order}-gram, weight {weight:g}", search))
    left_out = f"{failed} could not be read, on {empty} nothing is written"
    print(f"{len(rows)} images; {left_out}\n")
    print("| decoder | CER % | ms/image | alone |\n|---|---|---|---|")
    for name, decoder in decoders:
        print(f"| {name} | {error_rate(decoder, recorder.alphabet, rows, labels)} |", flush=True)


if __name__ == "__main__":
    main()
