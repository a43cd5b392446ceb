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
import numpy as np
import pytest

from components.tools.base_data.rendered_text.dataset import write_dataset
from components.tools.base_data.rendered_text.forms import on_form
from components.tools.base_data.rendered_text.texts import (
    CHARACTERS,
    CYRILLIC,
    LATIN,
    SIGNS,
    draw_entries,
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
    code = "from components.tools.base_data.rendered_text.texts import draw_entries, draw_texts"
    code += "; print(ascii([*draw_texts(2000, 1, 40), *draw_entries(1000, 1, 20)]))"
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


def test_entries_of_forms_are_mostly_in_capitals_and_in_latin_script() -> None:
    entries = list(draw_entries(1500, seed=5, longest=16))
    assert entries == list(draw_entries(1500, seed=5, longest=16)) != list(draw_entries(1500, seed=6, longest=16))
    assert max(map(len, entries)) <= 16 and set("".join(entries)) <= CHARACTERS - set(CYRILLIC)
    words = [entry for entry in entries if any(c.isalpha() for c in entry)]
    assert 0.75 < sum(word == word.upper() for word in words) / len(words) < 0.95
    assert 50 < sum(any(c.isdigit() for c in entry) for entry in entries) < 400


def test_a_form_surrounds_handwriting_without_covering_it() -> None:
    plain = np.full((40, 160), 235, np.uint8)
    cv2.putText(plain, "ANNA", (20, 32), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (30,), 3)
    share = (plain < 130).mean()
    others = []
    for seed in range(300):
        image = on_form(plain, np.random.default_rng(seed))
        np.testing.assert_array_equal(image, on_form(plain, np.random.default_rng(seed)))
        assert image.dtype == np.uint8 and image.ndim == 2 and min(image.shape) >= 16
        dark = (image < int(image.min()) / 2 + int(image.max()) / 2).mean()
        assert 0.4 * share < dark < 0.5, seed
        others.append(image.shape)
    assert len(set(others)) > 30 and (plain.shape in others)


def test_a_dataset_of_form_entries_reads_like_forms(tmp_path: Path) -> None:
    write_dataset(tmp_path / "forms", ["MÜLLER", "12.03.1998", "ŻÓŁĆ"], seed=3, writers=50, forms=True)
    write_dataset(tmp_path / "lines", ["MÜLLER", "12.03.1998", "ŻÓŁĆ"], seed=3, writers=50)
    for name in ("000000", "000001", "000002"):
        form, line = (cv2.imread(str(tmp_path / kind / "images" / f"{name}.png"), 0) for kind in ("forms", "lines"))
        assert form.shape != line.shape and form.min() + 60 < form.max()
