"""The rounds of the base models: what each is trained on, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from components.trainer.settings import Augmentation


@dataclass(frozen=True)
class Rendered:
    """A set of rendered images.

    Attributes:
        name: Name of its folder.
        images: How many, besides those for `least`.
        characters: Most of one text.
        seed: Seed of texts and images.
        least: How often every character occurs. A round forgets those that its labels lack.
        forms: Whether they are entries of forms, mostly in capitals.
    """

    name: str
    images: int
    characters: int
    seed: int
    least: int = 0
    forms: bool = False


@dataclass(frozen=True)
class Real:
    """A folder with `labels.csv` (filename, text, writer) and images whose licence lets weights be published.

    Attributes:
        name: Name of the folder.
        credit: Whom to attribute, with the licence.
        share: Part of the rows that is used; few writers in many long lines would cost more time than they are worth.
        part: Number of the part, counted from 0: another round can take other rows.
        made: What is taken of these rows: themselves; their "words", cut out where the base model for lines that is
            shipped finds them; words in "capitals", put together from capital letters, or lines "composed" of words,
            both of them found in the same way; or lines cut anew out of the "pages" that they are from.
        images: How many words in capitals or composed lines are made.
    """

    name: str
    credit: str
    share: float = 1.0
    part: int = 0
    made: Literal["rows", "words", "capitals", "composed", "pages"] = "rows"
    images: int = 0


@dataclass(frozen=True)
class Round:
    """One training: from nothing the first time, each further one from the version before it.

    Attributes:
        rendered: Sets that are made; others in each round, since no rendered image is worth many epochs.
        real: Sets that are there.
        epochs: Passes over all of them together.
        learning_rate: Its peak; what such a training takes by itself if None.
        augment: Strength of the random augmentation.
        start_share: Share of the weights of the version before in the result.
        augmentations: Kinds of augmentation besides the usual ones.
        clean_statistics: Share of images as they are in the statistics of batch normalisation.
        softening: How soft images get that are transcribed.
    """

    rendered: Sequence[Rendered]
    real: Sequence[Real]
    epochs: int
    learning_rate: float | None = None
    augment: float = 0.5
    start_share: float = 0.0
    augmentations: Sequence[Augmentation] = ()
    clean_statistics: float = 0.0
    softening: float = 0.0


# Lines from the fifth round on.
_later = partial(Round, learning_rate=2e-3, augment=1.0, start_share=0.5)


def _rendered(number: int) -> list[Rendered]:
    """Words, lines and entries of forms for a round on lines that is mostly of real images."""
    return [
        Rendered(f"rendered-words-{number}", 1000, 22, 100 * number + 1, least=4),
        Rendered(f"rendered-lines-{number}", 1000, 60, 100 * number + 2),
        Rendered(f"rendered-forms-{number}", 1500, 20, 100 * number + 3, forms=True),
    ]


_DHSD = Real("dhsd-words", "DHSD (nauman-riaz/DHSD), CC BY 4.0")
_POILUS = Real("poilus-lines", "CREMMA-AN-TestamentsDePoilus (HTR-United), CC BY 4.0")
_TIMEUS = Real("timeus-lines", "timeuscorpus (HTR-United), CC BY 4.0", share=0.25)
_MSS19 = Real("mss19-lines", "CREMMA-MSS-19 (HTR-United), CC BY 4.0")
_FRENCH = (_POILUS, _TIMEUS, _MSS19)
_FRENCH_2, _FRENCH_3, _FRENCH_4 = ((_POILUS, replace(_TIMEUS, part=part), _MSS19) for part in (1, 2, 3))
_DHSD_WORDS, _POILUS_WORDS, _TIMEUS_WORDS, _MSS19_WORDS = (replace(real, made="words") for real in (_DHSD, *_FRENCH))
_FRENCH_WORDS = (_POILUS_WORDS, _TIMEUS_WORDS, _MSS19_WORDS)
_HALF_OF_WORDS = tuple(replace(real, share=0.5, part=1) for real in (_POILUS_WORDS, _MSS19_WORDS))
_OTHER_HALF_OF_WORDS = tuple(replace(real, part=0) for real in _HALF_OF_WORDS)
_DHSD_CAPITALS = replace(_DHSD, made="capitals", images=4500)
_OF_PAGES = tuple(replace(real, made="pages") for real in (_POILUS, _MSS19))
_COMPOSED = (
    replace(_DHSD, made="composed", images=2500),
    replace(_POILUS, made="composed", images=1200),
    replace(_TIMEUS, part=1, made="composed", images=500),
    replace(_MSS19, made="composed", images=1000),
)

RECIPES: dict[str, Sequence[Round]] = {
    "line": [
        Round(
            [Rendered("rendered-words", 8000, 22, 101), Rendered("rendered-lines", 3500, 60, 102)],
            [_DHSD, *_FRENCH],
            9,
        ),
        Round(
            [Rendered("rendered-words-2", 6000, 22, 201), Rendered("rendered-lines-2", 2000, 60, 202)],
            [_DHSD, *_FRENCH],
            6,
            learning_rate=1e-3,
        ),
        Round(
            [Rendered("rendered-words-3", 1500, 22, 301), Rendered("rendered-lines-3", 1000, 60, 302)],
            [_DHSD, *_FRENCH],
            9,
            learning_rate=1.5e-3,
        ),
        Round(
            [Rendered("rendered-words-4", 1000, 22, 401, least=4), Rendered("rendered-lines-4", 1000, 60, 402)],
            [_DHSD, *_FRENCH_2],
            10,
            learning_rate=2e-3,
        ),
        _later(
            [Rendered("rendered-words-5", 1000, 22, 501, least=4), Rendered("rendered-lines-5", 1000, 60, 502)],
            [_DHSD, *_FRENCH_3],
            8,
        ),
        _later(
            [Rendered("rendered-words-6", 1000, 22, 601, least=4), Rendered("rendered-lines-6", 1000, 60, 602)],
            [_DHSD, *_FRENCH_4, _POILUS_WORDS, _MSS19_WORDS],
            5,
        ),
        _later(
            [Rendered("rendered-words-7", 1000, 22, 701, least=4), Rendered("rendered-lines-7", 1000, 60, 702)],
            [_DHSD, _DHSD_WORDS, *_FRENCH, *_HALF_OF_WORDS],
            4,
        ),
        _later(
            [
                Rendered("rendered-words-8", 1500, 22, 801, least=4),
                Rendered("rendered-lines-8", 1000, 60, 802),
                Rendered("rendered-forms-8", 3500, 20, 803, forms=True),
            ],
            [_DHSD, _DHSD_CAPITALS, *_FRENCH_2, *_OTHER_HALF_OF_WORDS],
            4,
        ),
        _later(
            _rendered(9),
            [_DHSD, _DHSD_CAPITALS, *_FRENCH_3, *_OF_PAGES, *_HALF_OF_WORDS],
            4,
            augmentations=["neighbours"],
        ),
        _later(
            _rendered(10),
            [_DHSD, _DHSD_CAPITALS, *_FRENCH_4, *_OF_PAGES, *_OTHER_HALF_OF_WORDS, *_COMPOSED],
            4,
            augmentations=["neighbours"],
        ),
        _later(
            _rendered(11),
            [_DHSD, _DHSD_CAPITALS, *_FRENCH, *_OF_PAGES, *_HALF_OF_WORDS, *_COMPOSED],
            3,
            augmentations=["neighbours", "sharpness"],
            clean_statistics=0.5,
        ),
        _later(
            _rendered(12),
            [_DHSD, _DHSD_CAPITALS, *_FRENCH_2, *_OF_PAGES, *_OTHER_HALF_OF_WORDS, *_COMPOSED],
            4,
            augmentations=["neighbours", "sharpness"],
            clean_statistics=0.5,
            softening=0.125,
        ),
    ],
    "word": [
        Round([Rendered("rendered-short-words", 8000, 14, 103)], [_DHSD], 24),
        Round([Rendered("rendered-short-words-2", 3000, 14, 203, least=4)], [_DHSD], 14, learning_rate=1.5e-3),
        Round([Rendered("rendered-short-words-3", 3000, 14, 303, least=4)], [_DHSD], 16, learning_rate=2e-3),
        Round(
            [Rendered("rendered-short-words-4", 6000, 14, 403, least=4)],
            [_DHSD, *_FRENCH_WORDS],
            20,
            learning_rate=2e-3,
        ),
        Round(
            [Rendered("rendered-short-words-5", 3000, 14, 503, least=4)],
            [_DHSD, _DHSD_WORDS, *_FRENCH_WORDS],
            6,
            learning_rate=2e-3,
            start_share=0.5,
        ),
        Round(
            [
                Rendered("rendered-short-words-6", 4000, 14, 603, least=4),
                Rendered("rendered-short-forms-6", 4000, 12, 604, forms=True),
            ],
            [_DHSD, _DHSD_WORDS, _DHSD_CAPITALS, *_FRENCH_WORDS],
            4,
            learning_rate=2e-3,
            start_share=0.5,
        ),
    ],
}
"""What the base model of each preset is trained on, and how long; lines first, whose model cuts out words."""
