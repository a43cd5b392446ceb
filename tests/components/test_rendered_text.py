"""Rendered handwriting in quantity: its texts, and the dataset folder that is made of them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import cv2
import pytest

from components.tools.rendered_text.dataset import write_dataset
from components.tools.rendered_text.texts import (
    CHARACTERS,
    CYRILLIC,
    LATIN,
    SIGNS,
    draw_texts,
    with_every_character,
)
from components.tools.sample_data.fonts import FONTS, load_glyphs


def test_texts_follow_from_the_seed_and_stay_within_their_length() -> None:
    texts = list(draw_texts(300, seed=5, longest=20))
    assert texts == list(draw_texts(300, seed=5, longest=20))
    assert texts != list(draw_texts(300, seed=6, longest=20))
    assert max(map(len, texts)) <= 20
    assert all(text == text.strip() and unicodedata.is_normalized("NFC", text) for text in texts)


def test_texts_are_the_same_in_every_process() -> None:
    code = "from components.tools.rendered_text.texts import draw_texts; print(ascii(list(draw_texts(2000, 1, 40))))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_texts_have_letters_of_all_alphabets_digits_and_punctuation() -> None:
    seen = set("".join(draw_texts(6000, seed=1, longest=40)))
    assert seen <= CHARACTERS
    rare = set("ЪъЫһ№_@#*=+—")  # of no consequence if a draw lacks them
    assert set(LATIN + CYRILLIC + SIGNS) - seen - rare == set()


def test_a_set_lacks_no_character() -> None:
    texts = list(draw_texts(200, seed=1, longest=14))
    every = list(with_every_character(texts, seed=1, least=3))
    assert every[:200] == texts and every == list(with_every_character(texts, seed=1, least=3))
    assert min(Counter("".join(every))[character] for character in CHARACTERS) == 3
    assert {len(text) for text in every} <= {len(text) for text in texts}
    # A letter that is put in stands among those of its script.
    assert not [t for t in every[200:] if set(t) & set(LATIN) and set(t) & set(CYRILLIC)]


def test_some_font_has_every_character() -> None:
    missing = set(CHARACTERS)
    for font in FONTS:
        missing &= load_glyphs(font).missing(missing)
    assert not missing


def test_a_dataset_is_for_training_and_comes_out_the_same_again(tmp_path: Path) -> None:
    texts = ["Żółć", "Қазақстан", "12.03.1998", "une ligne de plusieurs mots, bien plus longue que haute"]
    assert write_dataset(tmp_path / "a", texts, seed=3, writers=120) == 4
    write_dataset(tmp_path / "b", texts, seed=3, writers=120)
    with (tmp_path / "a" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts
    assert {row["split"] for row in rows} == {"train"}
    for row in rows:
        content = (tmp_path / "a" / row["filename"]).read_bytes()
        assert content == (tmp_path / "b" / row["filename"]).read_bytes()
    height, width = cv2.imread(str(tmp_path / "a" / rows[3]["filename"]), cv2.IMREAD_GRAYSCALE).shape
    assert width > 6 * height


def test_a_text_that_no_font_can_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none has 字漢"):
        write_dataset(tmp_path / "a", ["abc", "漢字a"], seed=3, writers=5)
