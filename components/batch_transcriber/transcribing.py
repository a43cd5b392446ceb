"""Transcribes images with models that each process of an engine loads once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from components.base_model import packing
from components.batch_transcriber.listing import Image
from components.batch_transcriber.output import BatchError
from components.common import storage, version_settings
from components.common.ahead import ahead
from components.common.versions import misplaced
from components.example_gen.outages import is_of_the_store
from components.language.texts import lines
from components.recogniser.decoders import BEST_PATH, DEFAULT
from htr_client import image_files, kinds
from htr_client.base import DecoderOf
from htr_client.beam import PrefixBeamSearch
from htr_client.client import HtrClient
from htr_client.decoding import BestPath, Decoder
from htr_client.errors import ImageError
from htr_client.language import CharacterModel
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.model import Page
from htr_client.suspicion import Suspicion
from serving.version_directory import LANGUAGE_MODEL_FILE

# Enough to hide the latency of an object store; decoding itself is bound by the cores.
_READERS = 8
_AHEAD = (4, 128)  # pages take much memory, and a store answers many times faster than they are transcribed
UNREADABLE = "unreadable"
"""Reason of an image whose file cannot be opened or read, whatever is in it."""
_loading = threading.Lock()
_OPTION = "--lm"  # of `htr transcribe`, which names the texts


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


Result = ImageText | Page | ImageError


@dataclass(frozen=True)
class Transcriber:
    """What transcribes images, and how; small, since it travels to every worker.

    Attributes:
        model_path: Directory of a SavedModel of this pipeline.
        kind: "line" for images of one line or word each; "page", or "auto" for either, as in `htr_client.kinds`.
        line_finder: Directory of a line finder's version, for pages; the one that is shipped if None.
        batch_size: Images of lines of one call of the model.
        decoder: `DEFAULT`, with the language model of the version where it has one; or `BEST_PATH`, without any.
        bfloat16: Whether to compute in bfloat16 on machines whose processor has it.
        max_pixels: Images with more pixels are refused before they are decoded.
        texts: UTF-8 file of texts, one a line, that stand beside the version's language model.
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
        if self.decoder == DEFAULT and storage.exists(language_model):
            found.update(storage.read(language_model))
        if self.texts:
            texts = list(lines([self.texts], _OPTION))
            if not texts:
                raise BatchError(f"{self.texts} holds no text.")
            alphabet = version_settings.read(self.model_path).get("alphabet")
            if alphabet and set().union(*texts).isdisjoint(alphabet):
                raise BatchError(f"{self.texts} has no character that {self.model_path} can write.")
            found.update(b"texts" + "\n".join(texts).encode())
        if self.kind != "line":
            finder = self._line_finder()
            found.update(_fingerprint_file(finder))
            if wrong := misplaced(finder, "line finder"):
                raise BatchError(wrong)
        if self.bfloat16:
            found.update(b"bfloat16")
        return found.hexdigest()

    def _decoder(self) -> Decoder | DecoderOf | None:
        """What decodes; None for the version's own."""
        if self.decoder == BEST_PATH:
            return BestPath()
        if self.texts is None:
            return None
        own = CharacterModel(lines([self.texts], _OPTION))
        return lambda version: PrefixBeamSearch(language_model=own.beside(version))

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
            OSError: A bucket, a disk or the network fails.
        """
        waiting: deque[tuple[Image, ImageError | None]] = deque()

        def read(image: Image) -> tuple[Image, bytes | ImageError]:
            try:
                return image, _content(os.path.join(folder, image.path))
            except ImageError as error:
                return image, error

        def contents() -> Iterator[bytes]:
            for image, data in ahead(read, images, _READERS, _AHEAD[self.kind == "line"]):
                waiting.append((image, data if isinstance(data, ImageError) else None))
                yield data if isinstance(data, bytes) else b""

        with _loading:  # an engine may run several threads in a process
            client = _client(self if self.kind == "line" else replace(self, line_finder=self._line_finder()))
        for result in kinds.transcribe(client, contents(), self.kind):
            image, error = waiting.popleft()
            if error is not None:
                yield image, error
            elif isinstance(result, Page):
                name = os.fsencode(os.path.basename(image.path)).decode(errors="backslashreplace")
                yield image, replace(result, image=name)
            else:
                yield image, result.error or ImageText(result.text, result.confidence, result.suspicions)


def _fingerprint_file(model_path: str) -> bytes:
    try:
        return storage.read(os.path.join(model_path, "fingerprint.pb"))
    except FileNotFoundError as error:
        raise BatchError(f"{model_path} is no SavedModel: it holds no fingerprint.pb.") from error


@functools.lru_cache(maxsize=1)
def _client(transcriber: Transcriber) -> HtrClient:
    from serving.local import LocalClient

    # The client loads a model when it first needs it, so copies of what lies in a bucket stay as long as the process.
    folder = _copies.enter_context(storage.here(transcriber.model_path))
    finder = _copies.enter_context(storage.here(transcriber.line_finder)) if transcriber.line_finder else None
    return LocalClient(
        folder, decoder=transcriber._decoder(), batch_size=transcriber.batch_size, line_finder=finder,
        bfloat16=transcriber.bfloat16, max_pixels=transcriber.max_pixels,
    )  # fmt: skip


_copies = contextlib.ExitStack()


def _content(path: str) -> bytes:
    try:
        return storage.read(path, image_files.MAX_BYTES + 1)
    except OSError as error:
        if is_of_the_store(path, error):
            raise
        raise ImageError(UNREADABLE, f"Cannot read {path!r}: {error.strerror or error}") from None
