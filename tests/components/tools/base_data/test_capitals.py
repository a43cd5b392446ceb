"""Words in capitals: letters are cut out whole or not at all, and words are put together from one group's letters."""

import csv
import string

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.recogniser.located import Located
from components.tools.base_data.capitals.letters import Letter, capitals
from components.tools.base_data.capitals.words import write_capitals

HEIGHT, WIDTH = 40, 12  # pixels; a letter is a bar so wide


def drawn(gaps, probability=0.9):
    """Bars of a grey of their own, so far apart, and their letters: capitals at even places, else small ones."""
    width = 10 + sum(WIDTH + gap for gap in gaps) + 10
    image, at, characters = np.full((HEIGHT, width), 255, np.uint8), 10, []
    for number, gap in enumerate(gaps):
        image[8:32, at : at + WIDTH] = 20 + number
        text = (string.ascii_lowercase if number % 2 else string.ascii_uppercase)[number]
        characters.append(Located(text, probability, (at / width, (at + WIDTH) / width)))
        at += WIDTH + gap
    return image, characters


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_a_letter_is_cut_out_where_paper_is_around_it(gaps):
    image, characters = drawn(gaps)
    apart = [before > 0 and after > 0 for before, after in zip([5, *gaps], [*gaps[:-1], 5], strict=False)]
    expected = [
        (c.text, 235 - n) for n, (c, alone) in enumerate(zip(characters, apart, strict=True)) if alone and n % 2 == 0
    ]
    found = capitals(image, characters)
    assert [(letter.text, int(letter.ink.max())) for letter in found] == expected
    assert all(letter.ink.shape == (24, WIDTH) and (letter.ink > 0).all() for letter in found)


def test_a_letter_that_the_model_does_not_find_is_left_where_it_is():
    assert capitals(*drawn([5, 5, 5], probability=0.3)) == []


def test_a_ruled_line_is_no_part_of_a_letter():
    image, characters = drawn([5])
    image[36:38, 6:26] = 60
    (letter,) = capitals(image, characters)
    assert letter.ink.shape == (24, WIDTH)


def bank(*writers):
    """Letters of writers, each of a darkness of its own; only the first one has a B."""
    return {
        writer: [
            Letter(text, np.full((20, 14), 100 + 10 * number, np.uint8)) for text in ("AB" if number == 0 else "AC")
        ]
        for number, writer in enumerate(writers)
    }


def rows_of(folder):
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def untouched(image, rng):
    return image


def test_no_group_has_letters_of_another_one(tmp_path):
    letters = bank("one", "two", "three")
    group = {"one": "eval", "two": "train", "three": "train"}
    counts = write_capitals(letters, ["Aba", "ac", "AA"] * 40, tmp_path / "words", 3, group.get, untouched)
    rows = rows_of(tmp_path / "words")
    assert len(rows) == counts.written and counts.written + counts.left_out == 120 and counts.left_out > 0
    texts = {writer: {row["text"] for row in rows if row["writer"] == writer} for writer in letters}
    assert texts == {"one": {"ABA", "AA"}, "two": {"AC", "AA"}, "three": {"AC", "AA"}}


def test_a_writer_borrows_what_it_lacks_in_its_group(tmp_path):
    counts = write_capitals(bank("one", "two"), ["abc"] * 30, tmp_path / "words", 3, lambda _: "train", untouched)
    assert counts == (30, 0) and {row["writer"] for row in rows_of(tmp_path / "words")} == {"one", "two"}


def test_accents_are_left_out_where_nobody_writes_them(tmp_path):
    letters = {"one": [Letter(text, np.full((20, 14), 99, np.uint8)) for text in "AÄO"]}
    assert write_capitals(letters, ["äöá", "ß", " "], tmp_path / "words", 3, lambda _: "train", untouched) == (1, 2)
    assert [row["text"] for row in rows_of(tmp_path / "words")] == ["ÄOA"]


def test_images_follow_from_the_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_capitals(bank("one"), ["aba", "Ab, x-y. i'i"], tmp_path / name, seed, lambda _: "train", untouched)
    a, b, c = ([(tmp_path / n / row["filename"]).read_bytes() for row in rows_of(tmp_path / n)] for n in "abc")
    assert len(a) == 2 and a == b and a != c
    image = cv2.imread(str(tmp_path / "a" / "images" / "000002.png"), cv2.IMREAD_UNCHANGED)
    assert image.ndim == 2 and image.shape[1] > 3 * image.shape[0] and image.min() < 130 < image.max()


def test_every_letter_is_in_the_image_apart_from_the_others(tmp_path):
    counts = write_capitals(bank("one"), ["abab"] * 20, tmp_path / "words", 3, lambda _: "train", untouched)
    assert counts == (20, 0)
    for row in rows_of(tmp_path / "words"):
        image = cv2.imread(str(tmp_path / "words" / row["filename"]), cv2.IMREAD_GRAYSCALE)
        ink = (image < image.max() - 20).any(axis=0)
        assert (np.diff(ink.astype(int)) == 1).sum() == 4


def test_without_letters_there_are_no_words(tmp_path):
    with pytest.raises(ValueError, match="No capital letters"):
        write_capitals({"one": []}, ["a"], tmp_path / "words", 3, lambda _: "train", untouched)
