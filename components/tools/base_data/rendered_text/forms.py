"""What surrounds handwriting on a form: boxes, combs, lines, captions, and what scanning made of it."""

from __future__ import annotations

import cv2
import numpy as np

_CAPTIONS = (
    "NOM", "NOM :", "PRENOM", "Prenom", "NAME", "Name:", "FIRST NAME", "Surname", "Vorname", "Ort", "DATE", "Date :",
    "City", "Ville", "No.", "Apellido", "COGNOME",
)  # fmt: skip
_PRINT = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)


def on_form(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts an image of handwriting on a form, and scans it.

    Args:
        image: Grey, uint8 [height, width], dark ink.
        rng: What is drawn around, and how well it is scanned.

    Returns:
        Grey, uint8 [height, width]; wider or higher where something stands beside.
    """
    draw = rng.random()
    if draw < 0.12:
        image = _caption(image, rng)
    elif draw < 0.30:
        image = _line(image, rng)
    elif draw < 0.42:
        image = _box(image, rng)
    elif draw < 0.50:
        image = _comb(image, rng)
    return _scan(image, rng)


def _grey(rng: np.random.Generator) -> int:
    return int(rng.integers(20, 170))


def _paper(image: np.ndarray) -> int:
    return int(np.percentile(image, 90))


def _padded(image: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(_paper(image),))


def _darkened(image: np.ndarray, drawn: np.ndarray, level: int) -> np.ndarray:
    """The image where something is drawn (uint8, 255 for all of it) no lighter than a level."""
    other = 255 - drawn.astype(np.float32) / 255 * (255 - level)
    return np.minimum(image, other).astype(np.uint8)


def _caption(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A printed caption before the handwriting, or what is left of one after the image was cut out."""
    text = str(rng.choice(_CAPTIONS))
    font = int(rng.choice(_PRINT))
    height = image.shape[0]
    scale = height * float(rng.uniform(0.22, 0.4)) / 22  # a capital letter of these fonts is 22 pixels high
    thick = max(1, round(2 * scale))
    (width, _), _ = cv2.getTextSize(text, font, scale, thick)
    away = int(rng.uniform(0.1, 0.5) * height)
    image = _padded(image, 0, 0, width + away, 0)
    drawn = np.zeros_like(image)
    cv2.putText(drawn, text, (2, int(height * rng.uniform(0.5, 0.95))), font, scale, (255,), thick, cv2.LINE_AA)
    image = _darkened(image, drawn, _grey(rng))
    return image[:, int(rng.uniform(0, 0.8) * width) if rng.random() < 0.5 else 0 :]


def _line(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A line to write on: drawn, dashed or dotted."""
    image = _padded(image, 0, int(rng.integers(0, 6)), 0, 0)
    height, width = image.shape
    drawn = np.zeros_like(image)
    row, slope = height * float(rng.uniform(0.78, 0.97)), float(rng.normal(0, 0.008))
    period, filled = [(width, width), (int(rng.integers(6, 16)), 5), (int(rng.integers(3, 7)), 2)][rng.integers(3)]
    for start in range(0, width, period):
        end = min(start + filled, width)
        cv2.line(
            drawn, (start, int(row + slope * start)), (end, int(row + slope * end)), (255,), int(rng.integers(1, 3)),
            cv2.LINE_AA,
        )  # fmt: skip
    return _darkened(image, drawn, _grey(rng))


def _box(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sides of a box of which the image was cut out, some of them."""
    around = [int(value) for value in rng.integers(2, 9, 4)]
    image = _padded(image, *around)
    height, width = image.shape
    drawn = np.zeros_like(image)
    inset, thick = int(rng.integers(0, 4)), int(rng.integers(1, 4))
    sides = rng.random(4) < 0.7
    right, bottom = width - 1 - inset, height - 1 - inset
    corners = [(inset, inset), (right, inset), (right, bottom), (inset, bottom)]
    for number in np.flatnonzero(sides):
        cv2.line(drawn, corners[number], corners[(number + 1) % 4], (255,), thick)
    return _darkened(image, drawn, _grey(rng))


def _comb(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Marks that part the places of single letters."""
    height, width = image.shape
    drawn = np.zeros_like(image)
    pitch = height * float(rng.uniform(0.5, 0.9))
    foot = height - 1 - int(rng.integers(0, 3))
    top = int(height * rng.choice([0.0, 0.6, 0.75]))
    cv2.line(drawn, (0, foot), (width, foot), (255,), 1)
    for column in np.arange(rng.uniform(0, pitch), width, pitch):
        cv2.line(drawn, (int(column), top), (int(column), foot), (255,), 1)
    return _darkened(image, drawn, int(rng.integers(120, 215)))  # such marks are pale, so that letters stand out


def _scan(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Few pixels, only black and white, specks."""
    height, width = image.shape
    if rng.random() < 0.4:
        low = float(rng.uniform(18, 32))
        scale = min(1.0, low / height)
        small = (max(4, round(width * scale)), max(4, round(height * scale)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.3:
        threshold, _ = cv2.threshold(image, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        threshold += rng.uniform(0, 0.5) * (_paper(image) - threshold)
        image = np.where(image > threshold, 255, rng.integers(0, 60)).astype(np.uint8)
    if rng.random() < 0.2:
        specks = rng.random(image.shape) < rng.uniform(0.0005, 0.004)
        image = np.where(specks, np.uint8(rng.integers(0, 120)), image)
    return image
