"""`htr check`: what it says about datasets with something wrong in them."""

import csv
import random
import shutil

import cv2
import numpy as np
import pytest

from components.report.look import outline
from components.report.suspects import odd_labels
from components.sample_data import generate
from pipeline import cli
from pipeline.config import TransformConfig
from tests.conftest import encode, picture, write_dataset


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A sample dataset without dirty rows."""
    folder = tmp_path_factory.mktemp("clean") / "names"
    generate(folder, pictures=1000, writers=20, dirty_fraction=0)
    return folder


@pytest.fixture
def changed(clean, tmp_path):
    """Copies the dataset with other rows."""

    def change(edit, pictures=None):
        folder = tmp_path / "names"
        shutil.copytree(clean, folder)
        path = folder / "written_name.csv"
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        rows = edit(rows) or rows
        for name, content in (pictures or {}).items():
            (folder / "images" / name).write_bytes(content)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        return folder

    return change


def looked(folder, capsys, *more):
    assert cli.main(["check", "--data", str(folder), *more]) == 0
    return capsys.readouterr().out


def test_nothing_is_wrong_with_clean_data(clean, capsys):
    out = looked(clean, capsys)
    assert "Problem" not in out and "accepted for eval" in out


def test_swapped_labels_are_named(changed, capsys):
    def swap(rows):
        places = random.Random(1).sample(range(len(rows)), len(rows) // 10)
        texts = [rows[i]["IDENTITY"] for i in places]
        for i, text in zip(places, texts[1:] + texts[:1], strict=True):
            rows[i]["IDENTITY"] = text

    out = looked(changed(swap), capsys)
    assert "Problem" in out and "much too long or too short for the ink" in out and "swapped or shifted" in out


def test_leaked_writers_are_named(changed, capsys):
    def by_row(rows):
        return [{**row, "split": ("train", "train", "validation", "test")[i % 4]} for i, row in enumerate(rows)]

    out = looked(changed(by_row), capsys)
    assert "Problem: Writers of the evaluation split who also wrote pictures of other splits" in out
    assert "drop them, and writers stay together" in out


def test_new_character_is_named(changed, capsys):
    def with_split(rows):
        rows = [{**row, "split": "test" if i % 5 == 0 else "train", "WRITER": str(i % 5)} for i, row in enumerate(rows)]
        rows[0]["IDENTITY"], rows[5]["IDENTITY"] = "Ł" + rows[0]["IDENTITY"][1:], "Ł" + rows[5]["IDENTITY"][1:]
        return rows

    out = looked(changed(with_split), capsys)
    assert "Problem: Characters that occur outside the training split only" in out and "Ł (2)" in out


@pytest.mark.parametrize("kind", ["stored_again", "recompressed", "scaled", "lighter"])
def test_the_same_picture_twice_is_named(clean, changed, capsys, kind):
    with open(clean / "written_name.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    original = next(row for row in rows if (clean / "images" / row["FILENAME"]).exists())
    grey = cv2.imread(str(clean / "images" / original["FILENAME"]), cv2.IMREAD_GRAYSCALE)
    copy = {
        "stored_again": encode(grey),
        "recompressed": encode(grey, ".jpg"),
        "scaled": encode(cv2.resize(grey, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)),
        "lighter": encode(np.clip(grey.astype(int) + 20, 0, 255).astype(np.uint8)),
    }[kind]

    def split(rows):
        rows = [{**row, "split": "train"} for row in rows]
        return [*rows, {**original, "FILENAME": "copy.png", "split": "test"}]

    out = looked(changed(split, {"copy.png": copy}), capsys)
    assert "Pictures in more than one split: 1," in out and "copy.png (eval)" in out


def test_one_picture_with_two_labels_is_named_and_shown(tmp_path, capsys):
    rows = [{"filename": f"{i}.png", "text": f"word{i:03d}"} for i in range(60)]
    folder = write_dataset(tmp_path / "data", rows)
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
    out = looked(folder, capsys, "--html", str(tmp_path / "check.html"))
    assert "Pictures with two labels: 1, for example 'word001' in row 3" in out and "'word002' in row 4" in out
    html = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert "With different labels (1)" in html and "word001" in html and "data:image/jpeg;base64," in html


def test_different_pictures_are_not_called_the_same(clean, capsys):
    assert "more than one split" not in looked(clean, capsys)
    outlines = {outline(picture(120, 40, seed)) for seed in range(200)}
    assert len(outlines) == 200


def test_empty_and_inverted_pictures_are_named(tmp_path, capsys):
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": "word"} for i in range(60)])
    (folder / "3.png").write_bytes(encode(np.full((40, 120), 230, np.uint8)))
    (folder / "4.png").write_bytes(encode(255 - picture(120, 40, 4)))
    out = looked(folder, capsys)
    assert "Pictures with next to nothing on them: 1, for example row 5" in out
    assert "light writing on a dark ground: 1, for example row 6" in out


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("Anna\u200b", "U+200B (zero width space), which cannot be seen"),
        ("two\u00a0words", "U+00A0 (no-break space)"),
        ("two  words", "two spaces"),
        ("n/a", "no text"),
        ("???", "no text"),
        ("Аnna", "mixes Cyrillic and Latin"),
    ],
)
def test_odd_labels_are_explained(label, reason):
    assert reason in " ".join(odd_labels(label))


@pytest.mark.parametrize("label", ["Anna", "it's", "12-B", "Ελένη", "Анна", "naïve café", "?!", "St. John"])
def test_ordinary_labels_are_not_odd(label):
    assert list(odd_labels(label)) == [] or label == "?!"


def test_pictures_too_long_for_the_tensor_are_named(tmp_path, capsys):
    rows = [{"filename": f"{i}.png", "text": "a line of words"} for i in range(30)]
    folder = write_dataset(tmp_path / "data", rows)
    for i in range(30):
        (folder / f"{i}.png").write_bytes(encode(picture(640, 40, i)))
    assert "30 pictures are longer than 128 x 32" in looked(folder, capsys)
    assert "are longer than" not in looked(folder, capsys, "--set", "transform.preset=line")
    assert TransformConfig(preset="line").width / TransformConfig(preset="line").height > 640 / 40
