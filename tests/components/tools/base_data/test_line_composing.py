"""Lines composed of words: each word of the text is there, in its place, by one writer and of one size."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.base_model import packing
from components.common.metrics import count_errors
from components.tools.base_data.line_composing import compose, write_composed
from components.tools.base_data.rendered_text.dataset import write_dataset
from components.tools.base_data.word_cutting import Word
from serving.local import LocalClient

pytestmark = pytest.mark.either_stack

HEIGHT = 40  # pixels


@given(st.lists(st.integers(10, 900), min_size=1, max_size=12), st.integers(0, 5))
def test_a_composed_line_has_the_ink_of_its_words_in_the_order_of_its_text(widths, seed):
    words = []
    for number, width in enumerate(widths):
        image = np.full((HEIGHT, width), 250, np.uint8)
        image[10:30] = 10 * number  # from edge to edge, so that no other grey comes of resizing
        words.append(Word(image, chr(ord("a") + number), 0.9))
    line = compose(words, np.random.default_rng(seed))
    assert line.image.shape[0] == 64 and line.image.dtype == np.uint8
    texts = line.text.split(" ")
    assert 1 <= len(texts) == len(set(texts)) <= 9
    assert line.image.shape[1] <= 20 * 64 or len(texts) == 1
    middle = line.image[30:34].astype(int)
    found = [ord(text) - ord("a") for text in texts]
    starts = [int(np.flatnonzero((abs(middle - 10 * number) <= 1).all(axis=0))[0]) for number in found]
    assert starts == sorted(starts)


def test_the_words_of_a_composed_line_are_of_one_size():
    words = [Word(np.full((HEIGHT, 60), 250, np.uint8), text, 0.9) for text in "abcdef"]
    for word, height in zip(words, (10, 12, 11, 32, 30, 34), strict=True):
        word.image[20 - height // 2 : 20 + height // 2, 8:-8] = 30
    lines = [set(compose(words, np.random.default_rng(seed)).text.split(" ")) for seed in range(30)]
    assert all(line <= set("abc") or line <= set("def") for line in lines)
    assert any(len(line) == 3 for line in lines)


@pytest.mark.slow
def test_lines_are_composed_of_one_writer_and_read_as_their_labels_say(tmp_path):
    texts = [f"{a} und {b}" for a in ("Berlin", "Dresden", "42") for b in ("Paris", "London")]
    write_dataset(tmp_path / "lines", texts, seed=5)
    with open(tmp_path / "lines" / "labels.csv", encoding="utf-8", newline="") as file:
        rows = [{**row, "writer": f"w{number % 2}"} for number, row in enumerate(csv.DictReader(file))]
    version = packing.unpack("line")
    counts = write_composed(rows, tmp_path / "lines", version, tmp_path / "composed", images=12, seed=1)
    with open(tmp_path / "composed" / "labels.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == counts.written == 12 and counts.words + counts.unsure == 18
    theirs = {
        writer: {w for row in rows if row["writer"] == writer for w in row["text"].split()} for writer in ("w0", "w1")
    }
    assert all(set(row["text"].split()) <= theirs[row["writer"]] for row in lines)
    assert any(row["text"] not in texts for row in lines)
    with LocalClient(version) as client:
        read = [
            answer.text for answer in client.transcribe_many(tmp_path / "composed" / row["filename"] for row in lines)
        ]
    assert count_errors([row["text"] for row in lines], read).rate < 0.15, list(zip(lines, read, strict=True))
    with pytest.raises(ValueError, match="two words"):
        write_composed(rows[:0], tmp_path / "lines", version, tmp_path / "none", images=1, seed=1)
