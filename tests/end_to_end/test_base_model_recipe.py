"""`make base-model` at a small size: from rendered and real images to the files that are shipped."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.base_model import packing
from components.tools.base_data.rendered_text.dataset import write_dataset
from htr_client import pages
from pipeline.recipes import base_model
from pipeline.recipes.rounds import Real, Rendered, Round
from tests.end_to_end.conftest import FAST

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]


NAMES = ("Anna", "Emil", "Rosa", "Ida", "Nora", "Tom", "Lena", "Otto", "Sara", "Maria", "Clara", "Udo", "Hanna", "Dora")


@pytest.fixture
def sets(tmp_path):
    """A real set, as far as the command can tell: many writers, no splits."""
    folder = tmp_path / "sets" / "letters"
    write_dataset(folder, (f"{NAMES[n % len(NAMES)]} {n}" for n in range(90)), seed=1, writers=30)
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["filename", "text", "writer"], extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return folder.parent


def write_page(folder, name, lines):
    """A page whose lines are images, and its PAGE XML."""
    images = [cv2.imread(str(image), cv2.IMREAD_GRAYSCALE) for image, _ in lines]
    grey = np.full((90 * len(images) + 20, max(image.shape[1] for image in images) + 40), 255, np.uint8)
    found = []
    for number, (image, (_, text)) in enumerate(zip(images, lines, strict=True)):
        height, width = image.shape
        left, top, right, bottom = 20, 90 * number + 20, 20 + width, 90 * number + 20 + height
        grey[top:bottom, left:right] = image
        base = top + round(0.7 * height)
        outline = ((left, top), (right, top), (right, bottom), (left, bottom))
        found.append(pages.Line(text=text, baseline=((left, base), (right, base)), polygon=outline))
    page = pages.Page(f"{name}.jpg", grey.shape[1], grey.shape[0], tuple(found))
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.jpg"), grey)
    (folder / f"{name}.xml").write_text(pages.write(page, "page"), encoding="utf-8")


def test_lines_are_cut_anew_out_of_pages(sets, tmp_path, capfd):
    rows = base_model.rows_of(sets / "letters")
    real = Real("letters", "", made="pages")
    by_writer = {writer: [row for row in rows if row["writer"] == writer] for writer in {row["writer"] for row in rows}}
    named = []
    for writer, lines in by_writer.items():  # a page of two lines; its writer is told by other lines of it
        (sets / "letters" / lines[0]["filename"]).rename(sets / "letters" / "images" / f"set-{writer}_l00.png")
        lines[0]["filename"] = f"images/set-{writer}_l00.png"
        there = [(sets / "letters" / line["filename"], line["text"]) for line in lines[:2]]
        write_page(sets / "pages" / "letters", f"letters_{writer}", there)
        named += there
    write_page(sets / "pages" / "letters", "letters_nobody's", named[:1])
    with (sets / "letters" / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["filename", "text", "writer"])
        table.writeheader()
        table.writerows(rows)
    folder = base_model.choose(real, sets, tmp_path)
    assert folder.name == "letters-pages" and "1 page of which" in capfd.readouterr().err
    cut = base_model.rows_of(folder)
    texts = [(row["text"], row["writer"]) for row in cut]
    assert sorted(texts) == sorted(
        2 * [(line["text"], writer) for writer, lines in by_writer.items() for line in lines[:2]]
    )
    heights = [cv2.imread(str(folder / row["filename"])).shape[0] for row in cut]
    assert len(set(heights)) > 10, "margins differ, also of the two images of a line"


def test_from_both_kinds_of_images_to_the_packed_files(sets, tmp_path, monkeypatch, capfd):
    letters = Real("letters", "Somebody's letters, CC BY 4.0", share=0.75)
    rounds = [
        Round([Rendered("drawn", 40, 12, 3)], [letters], 1),
        Round(
            [Rendered("again", 30, 12, 4), Rendered("forms", 20, 12, 5, forms=True)],
            [letters, replace(letters, made="words"), replace(letters, made="capitals", images=400)],
            1,
        ),
    ]
    monkeypatch.setitem(base_model.RECIPES, "word", rounds)
    shutil.copytree(packing.FOLDER / "line", tmp_path / "files" / "line")  # which finds the words
    monkeypatch.setattr(packing, "FOLDER", tmp_path / "files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = tmp_path / "base-model"
    (made / "drawn.unfinished").mkdir(parents=True)  # of a command that was interrupted
    unlearnt = "gate.max_cer_increase=null"  # by chance the second round reads nothing worse than the first
    options = [f"--set={setting}" for setting in (*FAST, unlearnt)]
    command = ["--data", str(sets), "--folder", str(made), "--preset", "word", *options]
    assert base_model.main(command) == 0
    assert packing.presets() == ["line", "word"]
    card = (tmp_path / "files" / "word" / "model_card.md").read_text(encoding="utf-8")
    assert card.count("Somebody's letters, CC BY 4.0") == 1 and "OFL" in card and "letters-1-words" in card
    chosen = list((made / "letters-1" / "images").iterdir())
    assert 45 <= len(chosen) < 90
    (cut,) = made.glob("letters-1-words-*")
    words = [row["text"] for row in base_model.rows_of(cut)]
    numbers = {row["text"].split()[1] for row in base_model.rows_of(made / "letters-1")}
    assert len(chosen) < len(words) and {part for text in words for part in text.split()} <= {*NAMES, *numbers}
    (composed,) = made.glob("letters-1-capitals-400-*")
    in_capitals = base_model.rows_of(composed)
    assert in_capitals and all(set(row["text"]) <= set("AERINTLOSMCUHDXY-'., ") for row in in_capitals)
    assert {row["writer"] for row in in_capitals} <= {row["writer"] for row in base_model.rows_of(sets / "letters")}
    texts = (made / "word-2.txt").read_text("utf-8").splitlines()
    assert len(texts) == 40, "the language model learns from the rendered texts of the first round, too"
    shipped = packing.texts("word")
    assert set(texts) < set(shipped) and len(shipped) > 70, "and from the labels of the last one's training split"
    with (made / "letters-1" / "labels.csv").open(encoding="utf-8", newline="") as file:
        assert {row["filename"] for row in csv.DictReader(file)} == {f"images/{path.name}" for path in chosen}
    assert packing.unpack("word").startswith(str(tmp_path / "cache"))
    told = [*(tmp_path / "files").rglob("*.json"), *(tmp_path / "files").rglob("*.md")]
    told += Path(packing.unpack("word")).rglob("htr.json")
    assert [path for path in told if str(made) in path.read_text("utf-8")] == [], "folders are nobody's business"
    assert "version" in (tmp_path / "files" / "word" / "model_card.md").read_text(encoding="utf-8")

    # Again: nothing is made anew, and the sets are not even needed for what has been chosen.
    capfd.readouterr()
    shutil.rmtree(tmp_path / "files")
    assert base_model.main(command) == 0
    assert packing.presets() == ["word"] and "Rendering" not in capfd.readouterr().err


def test_parts_of_a_set_share_no_image_and_are_all_of_it(sets, tmp_path):
    parts = [base_model.choose(Real("letters", "", share=0.25, part=part), sets, tmp_path) for part in range(4)]
    chosen = [{row["filename"] for row in base_model.rows_of(folder)} for folder in parts]
    assert all(10 <= len(names) <= 40 for names in chosen)
    assert sorted(name for names in chosen for name in names) == sorted(
        row["filename"] for row in base_model.rows_of(sets / "letters")
    )
    assert all((folder / name).exists() for folder, names in zip(parts, chosen, strict=True) for name in names)
