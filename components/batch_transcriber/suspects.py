"""What is said at the end of a batch about images whose texts may be nonsense. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping

from components.common.words import counted
from htr_client.suspicion import PAGE_LIKE


def told(suspicions: Mapping[str, int], remedy: str) -> list[str]:
    """Sentences about suspect images; none where there are none.

    Args:
        suspicions: Number of images by the code of the suspicion.
        remedy: What has pages found among the images, such as "--kind auto".
    """
    sentences = []
    if suspicions:
        found = ", ".join(f"{count} {code}" for code, count in sorted(suspicions.items()))
        sentences.append(f"Suspect images, whose texts may be nonsense: {found}")
    if pages := suspicions.get(PAGE_LIKE):
        sentences.append(
            f"Transcribed as one line, but of the shape of a page: {counted(pages, 'image')}. If so: {remedy}"
        )
    return sentences
