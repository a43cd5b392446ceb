"""Words cut out of lines: every word is there with its own ink, and none of its neighbours'."""

import csv

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.base_model import packing
from components.common.metrics import count_errors
from components.recogniser.located import Located
from components.tools.base_data.rendered_text.dataset import write_dataset
from components.tools.base_data.word_cutting import cut, cut_closely, write_words
from serving.local import LocalClient

pytestmark = pytest.mark.either_stack

HEIGHT, STROKE = 40, 9  # pixels; one character is a bar so wide, and its neighbours are close to it


def drawn_line(words, gaps, shift=0):
    """A line of bars, one a character, each of a grey of its own word; and its characters, moved by some pixels."""
    pieces, characters, at = [], [], 0

    def add(width, level, text, ink):
        nonlocal at
        pieces.append(np.full((HEIGHT, width), 255, np.uint8))
        pieces[-1][8:32, :ink] = level
        if text:
            characters.append((text, at + shift, at + width + shift))
        at += width

    add(12, 255, "", 0)
    for number, (length, gap) in enumerate(zip(words, [*gaps, 0], strict=False)):
        for _ in range(length):
            add(STROKE, 10 + number, chr(ord("a") + number), STROKE - 1)
        if number < len(words) - 1:
            add(gap, 255, " ", 0)
    add(15, 255, "", 0)
    return np.hstack(pieces), [Located(text, 0.9, (left / at, right / at)) for text, left, right in characters]


LINES = st.lists(st.integers(1, 6), min_size=1, max_size=8).flatmap(
    lambda words: st.tuples(
        st.just(words), st.lists(st.integers(4, 20), min_size=len(words) - 1, max_size=len(words) - 1)
    )
)


@given(LINES, st.integers(-4, 4))
def test_each_word_has_its_own_ink(line, shift):
    words, gaps = line
    image, characters = drawn_line(words, gaps, shift)
    found = list(cut(image, characters))
    assert [word.text for word in found] == [chr(ord("a") + n) * length for n, length in enumerate(words)]
    for number, (word, length) in enumerate(zip(found, words, strict=True)):
        levels, counts = np.unique(word.image[word.image < 255], return_counts=True)
        assert levels.tolist() == [10 + number] and counts.tolist() == [24 * length * (STROKE - 1)]
    assert sum(word.image.shape[1] for word in found) <= image.shape[1]


def test_an_empty_line_has_no_words():
    assert list(cut(np.full((HEIGHT, 80), 255, np.uint8), [Located("a", 0.9, (0.1, 0.2))])) == []


def test_what_hangs_in_from_other_lines_is_cut_off():
    word = np.full((64, 90), 240, np.uint8)
    cv2.putText(word, "one", (14, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 30, 2)
    alone = cut_closely(word)
    word[:6, 5:80], word[60:, 50:58] = 20, 20
    np.testing.assert_array_equal(cut_closely(word), alone)
    assert alone.shape[0] < 30 and (alone < 100).sum() == (word[6:60] < 100).sum()
    blank = np.full((20, 30), 255, np.uint8)
    assert cut_closely(blank).shape == blank.shape


@pytest.mark.slow
@pytest.mark.either_stack
def test_words_of_rendered_lines_read_as_their_labels_say(tmp_path):
    texts = [
        f"{a} {b} {c}" for a in ("Berlin", "the house", "42") for b in ("und", "at noon") for c in ("Paris", "hat")
    ]
    write_dataset(tmp_path / "lines", texts, seed=5)
    with open(tmp_path / "lines" / "labels.csv", encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    for row, spaces in zip(rows, (" {}", "{} ", "{}\n"), strict=False):  # as they stand in tables
        row["text"] = spaces.format(row["text"].replace(" ", "  "))
    version = packing.unpack("line")
    written, unsure, lines_left_out = write_words(rows, tmp_path / "lines", version, tmp_path / "words", seed=1)
    with open(tmp_path / "words" / "labels.csv", encoding="utf-8", newline="") as file:
        words = list(csv.DictReader(file))
    assert all(row["text"] == " ".join(row["text"].split()) != "" for row in words)
    assert len(words) == written and {row["writer"] for row in words} <= {row["writer"] for row in rows}
    assert (
        lines_left_out == 0
        and written > 20
        and sum(len(row["text"].split()) for row in words) + unsure
        <= sum(len(text.split()) for text in texts)
        <= sum(len(row["text"].split()) for row in words) + 2 * unsure
    )
    with LocalClient(version) as client:
        read = [answer.text for answer in client.transcribe_many(tmp_path / "words" / row["filename"] for row in words)]
    assert count_errors([row["text"] for row in words], read).rate < 0.15, list(zip(words, read, strict=True))


@pytest.mark.slow
@pytest.mark.either_stack
def test_labels_of_other_lines_give_no_words(tmp_path):
    write_dataset(tmp_path / "lines", ["Berlin und Paris", "seven white horses", "1914 and after"], seed=5)
    with open(tmp_path / "lines" / "labels.csv", encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    texts = ["Xylophon kaum quer", "Zug mit fjord", "\u0e01 \u0e02"]  # the last one in letters that it cannot write
    wrong = [{**row, "text": text} for row, text in zip(rows, texts, strict=True)]
    counts = write_words(wrong, tmp_path / "lines", packing.unpack("line"), tmp_path / "words", seed=1)
    assert (counts.written, counts.unsure > 2, counts.lines_left_out) == (0, True, 1)
