"""What a language model learns from: labels, and text files besides. No TFX or TensorFlow here."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from components.common import storage
from components.common.settings import ConfigError
from components.example_gen.outages import StoreError, is_outage

_PART = 2**20  # bytes that are read at once


def labels(examples: Iterable[dict[str, Any]]) -> Iterator[str]:
    """One label of each image: an image that several rows name is still what one person wrote once.

    Args:
        examples: Examples with `image`, the bytes of the file, and `text`.
    """
    seen: set[bytes] = set()
    for example in examples:
        image = hashlib.sha256(example["image"]).digest()
        if image not in seen:
            seen.add(image)
            yield example["text"]


def started_from(settings: Mapping[str, Any]) -> str | None:
    """The preset of the base model from which a training started, or the versions before it; else None.

    Args:
        settings: Settings of the exported model; another preset than its own does not count.
    """
    preset = str(settings["transform"]["preset"])
    return preset if settings.get("start", {}).get("root_base") == preset else None


def lines(paths: Sequence[str], option: str = "language.texts") -> Iterator[str]:
    """The lines of text files that are not blank, in NFC as labels are.

    Args:
        paths: UTF-8 files, here or in a bucket.
        option: Setting or option that names them, for messages.

    Raises:
        ConfigError: A file cannot be read, or is not UTF-8.
        StoreError: Its store, disk or network fails.
    """
    for path in paths:
        position = 0
        try:
            # Line by line: of a large corpus only the beginning is learnt from. UTF-8 has this byte in no character.
            with storage.open_file(path) as file:
                for raw in file:
                    if b"\0" in raw:  # UTF-16 without its mark is UTF-8 too, as far as it is ASCII
                        raise ConfigError(
                            f"{option}: {path} is not UTF-8 (NUL at byte {position + raw.index(0)}; is it "
                            "UTF-16?): convert it, for example with iconv"
                        )
                    text = raw.decode() if position else raw.decode().removeprefix("\ufeff")
                    position += len(raw)
                    for line in text.splitlines():
                        if stripped := line.strip():
                            yield unicodedata.normalize("NFC", stripped)
        except OSError as error:
            wrong = f"{option}: {path} cannot be read: {error.strerror or error}"
            if is_outage(error):
                raise StoreError(f"{wrong}. Its store, disk or network fails: try again.") from error
            raise ConfigError(wrong) from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{option}: {path} is not UTF-8 ({error.reason} at byte {position + error.start}): convert it, "
                "for example with iconv"
            ) from error


def fingerprint(paths: Sequence[str]) -> str:
    """A digest that changes with the content of the files; a missing one is refused later, by `lines`."""
    total = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256()
        if storage.exists(path):
            with storage.open_file(path) as file:
                while part := file.read(_PART):
                    content.update(part)
        total.update(content.digest())
    return total.hexdigest()
