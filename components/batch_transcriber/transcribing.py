"""Transcribes images with models that each process of an engine loads once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from components.base_model import packing
from components.batch_transcriber.output import BatchError
from components.batch_transcriber.shards import Image
from components.common import storage, version_settings
from components.common.ahead import ahead
from components.common.versions import misplaced
from components.language.texts import lines
from components.recogniser.decoders import BEST_PATH, DEFAULT
from htr_client import image_files, kinds
from htr_client.beam import PrefixBeamSearch
from htr_client.client import HtrClient
from htr_client.decoding import BestPath, Decoder
from htr_client.errors import ImageError
from htr_client.language import CharacterModel
from htr_client.line_answers import believed
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.model import Page
from htr_client.suspicion import Look, Suspicion, look
from serving.precision import use_bfloat16
from serving.version_directory import LANGUAGE_MODEL_FILE

# Enough to hide the latency of an object store; decoding itself is bound by the cores.
_READERS = 8
_PAGES_AHEAD = 4  # pages take much memory, and a store answers many times faster than they are transcribed
_loading = threading.Lock()
BEAM = "beam"
_OPTION = "--lm"  # of `htr transcribe`, which names the texts
_WITHOUT_LANGUAGE_MODEL: dict[str, Callable[[], Decoder]] = {BEST_PATH: BestPath, BEAM: PrefixBeamSearch}
"""Those that leave the language model of a version out."""


class ImageText(NamedTuple):
    """The transcription of an image of one line.

    Attributes:
        text: The text.
        confidence: Confidence of the whole text.
        suspicions: Why the text may be nonsense.
    """

    text: str
    confidence: float
    suspicions: tuple[Suspicion, ...] = ()


class _Packed(NamedTuple):
    """The image of a line, ready for the model, and what its pixels show."""

    image: image_files.PackedImage
    look: Look


ContentT = TypeVar("ContentT", bytes, _Packed)
Result = ImageText | Page | ImageError


@dataclass(frozen=True)
class Transcriber:
    """What transcribes images, and how; small, since it travels to every worker.

    Attributes:
        model_path: Directory of a SavedModel of this pipeline.
        kind: "line" for images of one line or word each; "page", or "auto" for either, as in `htr_client.kinds`.
        line_finder: Directory of a line finder's version, for pages; the one that is shipped if None.
        batch_size: Images of lines of one call of the model.
        decoder: `DEFAULT`, with the language model of the version where it has one; `BEST_PATH` or `BEAM`, without it.
        bfloat16: Whether to compute in bfloat16 on machines whose processor has it.
        max_pixels: Images with more pixels are refused before they are decoded.
        texts: UTF-8 file of texts, one a line, whose language model takes the place of the version's.
    """

    model_path: str
    kind: str = "line"
    line_finder: str | None = None
    batch_size: int = 64
    decoder: str = DEFAULT
    bfloat16: bool = False
    max_pixels: int = MAX_PIXELS
    texts: str | None = None

    def fingerprint(self) -> str:
        """Tells apart what gives other texts, wherever it was copied to.

        It is TensorFlow's own digest of graph and variables, and the language model where it is used.

        Raises:
            BatchError: There is no such model or line finder, or one stands in the other's place; or there are no
                texts, or none that has a character of the model.
            ConfigError: The texts cannot be read.
        """
        found = hashlib.sha256(_fingerprint_file(self.model_path))
        if wrong := misplaced(self.model_path, "recogniser"):
            raise BatchError(wrong)
        language_model = os.path.join(self.model_path, LANGUAGE_MODEL_FILE)
        if self.texts:
            texts = list(lines([self.texts], _OPTION))
            if not texts:
                raise BatchError(f"{self.texts} holds no text.")
            alphabet = version_settings.read(self.model_path).get("alphabet")
            if alphabet and set().union(*texts).isdisjoint(alphabet):
                raise BatchError(f"{self.texts} has no character that {self.model_path} can write.")
            found.update(b"texts" + "\n".join(texts).encode())
        elif self.decoder == DEFAULT and storage.exists(language_model):
            found.update(storage.read(language_model))
        if self.decoder == BEAM:
            found.update(b"beam")
        if self.kind != "line":
            finder = self._line_finder()
            found.update(_fingerprint_file(finder))
            if wrong := misplaced(finder, "line finder"):
                raise BatchError(wrong)
        if self.bfloat16:
            found.update(b"bfloat16")
        return found.hexdigest()

    def _decoder(self) -> Decoder | None:
        """What decodes; None for the version's own."""
        if self.texts:
            return _search_for_such(self.texts)
        return _WITHOUT_LANGUAGE_MODEL[self.decoder]() if self.decoder != DEFAULT else None

    def _line_finder(self) -> str:
        try:
            return self.line_finder or packing.unpack(packing.PAGES)
        except packing.BaseModelError as error:
            raise BatchError(f"{error} Name one, or transcribe images of lines.") from error

    def transcribe(self, folder: str, images: Iterable[Image]) -> Iterator[tuple[Image, Result]]:
        """Transcribes images.

        Args:
            folder: Folder that their paths are below.
            images: Images to transcribe.

        Yields:
            Each image, in order, with its text, its page, or what is wrong with it.

        Raises:
            OSError: A bucket fails.
        """
        if self.kind == "line":
            packed = functools.partial(_packed, max_pixels=self.max_pixels)
            yield from self._transcribe_lines(_opened(packed, folder, images, 2 * self.batch_size))
        else:
            yield from self._transcribe_pages(_opened(_content, folder, images, _PAGES_AHEAD))

    def _transcribe_lines(self, opened: Iterator[tuple[Image, _Packed | ImageError]]) -> Iterator[tuple[Image, Result]]:
        while batch := list(islice(opened, self.batch_size)):
            texts = iter(self._decode([content for _, content in batch if isinstance(content, _Packed)]))
            for image, content in batch:
                yield image, next(texts) if isinstance(content, _Packed) else content

    def _decode(self, batch: list[_Packed]) -> list[Result]:
        if not batch:
            return []
        with _loading:  # an engine may run several threads in a process
            model = _load(self.model_path, self.bfloat16)
        # The last batch of a shard is filled up, so that the graph sees one shape only.
        images = [packed.image.data for packed in batch]
        log_probs, frames = model.log_probs(images + images[-1:] * (self.batch_size - len(batch)))
        decoder = self._decoder() or model.decoder()
        decoded = decoder.decode(log_probs[: len(batch)], frames[: len(batch)], model.alphabet)
        results: list[Result] = []
        for packed, valid, found in zip(batch, frames[: len(batch)].tolist(), decoded, strict=True):
            if valid == 0:  # how the model says that it has no image
                results.append(ImageError("refused", "The model cannot decode it."))
                continue
            found, suspicions = believed(found, packed.look, packed.image.width, packed.image.height, valid)
            results.append(ImageText(found.text, found.confidence, suspicions))
        return results

    def _transcribe_pages(self, opened: Iterator[tuple[Image, bytes | ImageError]]) -> Iterator[tuple[Image, Result]]:
        waiting: deque[tuple[Image, ImageError | None]] = deque()

        def contents() -> Iterator[bytes]:
            for image, data in opened:
                waiting.append((image, data if isinstance(data, ImageError) else None))
                yield data if isinstance(data, bytes) else b""

        with _loading:
            client = _client(replace(self, line_finder=self._line_finder()))
        for result in kinds.transcribe(client, contents(), self.kind):
            image, error = waiting.popleft()
            if error is not None:
                yield image, error
            elif isinstance(result, Page):
                name = os.fsencode(os.path.basename(image.path)).decode(errors="backslashreplace")
                yield image, replace(result, image=name)
            else:
                yield image, result.error or ImageText(result.text, result.confidence, result.suspicions)


@functools.lru_cache(maxsize=1)
def _search_for_such(texts: str) -> Decoder:
    return PrefixBeamSearch(language_model=CharacterModel(lines([texts], _OPTION)))


def _fingerprint_file(model_path: str) -> bytes:
    try:
        return storage.read(os.path.join(model_path, "fingerprint.pb"))
    except FileNotFoundError as error:
        raise BatchError(f"{model_path} is no SavedModel: it holds no fingerprint.pb.") from error


@functools.lru_cache(maxsize=1)
def _load(model_path: str, bfloat16: bool) -> Any:
    from components.recogniser.model import ExportedModel

    use_bfloat16(bfloat16)
    with storage.here(model_path) as folder:
        return ExportedModel(folder)


@functools.lru_cache(maxsize=1)
def _client(transcriber: Transcriber) -> HtrClient:
    from serving.local import LocalClient

    # The client loads a model when it first needs it, so copies of what lies in a bucket stay as long as the process.
    assert transcriber.line_finder is not None
    folder, finder = (
        _copies.enter_context(storage.here(path)) for path in (transcriber.model_path, transcriber.line_finder)
    )
    return LocalClient(
        folder, decoder=transcriber._decoder(), batch_size=transcriber.batch_size, line_finder=finder,
        bfloat16=transcriber.bfloat16, max_pixels=transcriber.max_pixels,
    )  # fmt: skip


_copies = contextlib.ExitStack()


def _opened(
    content: Callable[[str], ContentT], folder: str, images: Iterable[Image], most: int
) -> Iterator[tuple[Image, ContentT | ImageError]]:
    """Images with their content, so many of which are read ahead."""

    def read(image: Image) -> tuple[Image, ContentT | ImageError]:
        try:
            return image, content(os.path.join(folder, image.path))
        except ImageError as error:
            return image, error

    return ahead(read, images, _READERS, most)


def _packed(path: str, max_pixels: int) -> _Packed:
    packed, grey = image_files.pack_with_pixels(_content(path), max_pixels)
    return _Packed(packed, look(grey))


def _content(path: str) -> bytes:
    try:
        return storage.read(path, image_files.MAX_BYTES + 1)
    except OSError as error:
        if storage.is_store_failure(path, error):
            raise
        raise ImageError("unreadable", f"Cannot read {path!r}: {error.strerror or error}") from None
