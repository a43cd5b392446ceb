"""`htr check`: what it says about datasets with something wrong in them."""

import csv
import random
import re
import shutil
import tracemalloc

import cv2
import numpy as np
import pytest

from components.example_gen.dataset import Sample, examine_all
from components.example_gen.quarantine import TooManyRejects, check_counts
from components.example_gen.settings import DataConfig
from components.tools.data_check.look import Seen, extent, outline
from components.tools.data_check.suspects import misfits, odd_labels
from components.tools.sample_data import generate
from components.trainer.estimate import adapted_cer
from components.transform.settings import TransformConfig
from pipeline import cli
from tests.conftest import drawn_image, encode, write_dataset
from tests.serving.browser import Browser

pytestmark = pytest.mark.either_stack


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A sample dataset without dirty rows."""
    folder = tmp_path_factory.mktemp("clean") / "names"
    generate(folder, images=1000, writers=20, dirty_fraction=0)
    return folder


@pytest.fixture
def changed(clean, tmp_path):
    """Copies the dataset with other rows."""

    def change(edit, images=None):
        folder = tmp_path / "names"
        shutil.copytree(clean, folder)
        path = folder / "written_name.csv"
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        rows = edit(rows) or rows
        for name, content in (images or {}).items():
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


def test_what_helps_is_said_once(changed, capsys):
    def mark(rows):
        rows[3]["IDENTITY"] = "EMPTY"

    assert looked(changed(mark), capsys).count("data.placeholders=[] keeps such labels") == 1


def test_what_people_say_of_images_without_text_ends_nothing(tmp_path, capsys):
    def data(name, label):
        rows = [{"filename": f"{i}.png", "text": label if i % 3 == 0 else f"word{i}"} for i in range(90)]
        return str(write_dataset(tmp_path / name, rows))

    out = looked(data("reviewed", "Unreadable"), capsys)
    assert "30 rejected: placeholder_label" in out and "data.max_rejected" not in out
    # What a program has written for a missing value is a broken export.
    assert cli.main(["check", "--data", data("exported", "nan")]) == cli.TOO_MANY_REJECTS
    said = capsys.readouterr()
    assert "30 of 90 rows would be rejected" in said.err and "programs write 'nan' for an empty field" in said.out


def test_swapped_labels_are_named(changed, capsys):
    def swap(rows):
        places = random.Random(1).sample(range(len(rows)), len(rows) // 5)
        texts = [rows[i]["IDENTITY"] for i in places]
        for i, text in zip(places, texts[1:] + texts[:1], strict=True):
            rows[i]["IDENTITY"] = text

    out = looked(changed(swap), capsys)
    assert "Problem" in out and "much too long or too short for the ink" in out and "swapped or shifted" in out


def test_leaked_writers_are_named(changed, capsys):
    def by_row(rows):
        return [{**row, "split": ("train", "train", "validation", "test")[i % 4]} for i, row in enumerate(rows)]

    out = looked(changed(by_row), capsys)
    assert "Problem: Writers of the evaluation split who also wrote images of other splits" in out
    assert "drop them, and writers stay together" in out


def test_new_character_is_named(changed, capsys):
    def with_split(rows):
        rows = [{**row, "split": "test" if i % 5 == 0 else "train", "WRITER": str(i % 5)} for i, row in enumerate(rows)]
        rows[0]["IDENTITY"], rows[5]["IDENTITY"] = "Ł" + rows[0]["IDENTITY"][1:], "Ł" + rows[5]["IDENTITY"][1:]
        return rows

    folder = changed(with_split)
    page = folder.with_name("check.html")
    out = looked(folder, capsys, "--set", "train.warm_start=none", "--html", str(page))
    assert ">Ł &times;2, none in training<" in page.read_text(encoding="utf-8"), "not by its colour alone"
    assert "Problem: Characters that occur outside the training split only" in out and "Ł (2)" in out
    assert "will hardly be learnt" in out
    out = looked(folder, capsys, "--set", "train.keep_characters=false")
    assert "Ł (2)" in out and "will hardly be learnt" not in out, "the base model knows the rare ones"
    assert "outside the training split only" not in looked(folder, capsys), "and keeps this one"


@pytest.mark.parametrize("kind", ["stored_again", "recompressed", "scaled", "lighter"])
def test_the_same_image_twice_is_named(clean, changed, capsys, kind):
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
    assert "Images in more than one split: 1," in out and "copy.png (eval)" in out
    assert "twice in one split" not in out


def test_one_image_with_two_labels_is_named_and_shown(tmp_path, capsys):
    rows = [{"filename": f"{i}.png", "text": f"word{i:03d}"} for i in range(60)]
    folder = write_dataset(tmp_path / "data", rows)
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
    out = looked(folder, capsys, "--html", str(tmp_path / "check.html"))
    assert "Images with two labels: 1, for example 'word001' in row 3" in out and "'word002' in row 4" in out
    html = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert "With different labels (1)" in html and "word001" in html and "data:image/jpeg;base64," in html


def test_every_suspect_is_on_the_page(tmp_path, capsys):
    rows = [{"filename": f"{i}.png", "text": "n/a" if i % 2 else f"word{i:03d}"} for i in range(60)]
    folder = write_dataset(tmp_path / "data", rows)
    for i in range(30, 60, 2):
        (folder / f"{i}.png").write_bytes((folder / f"{i - 30}.png").read_bytes())
    looked(folder, capsys, "--html", str(tmp_path / "check.html"))
    html = (tmp_path / "check.html").read_text(encoding="utf-8")
    titles = ("With different labels (15)", "3 more, without their images")
    titles += ("Label odd by itself (30)", "18 more, without their images")
    assert [*sorted(map(html.index, titles))] == [*map(html.index, titles)], "in this order"
    assert set(map(int, re.findall(r"row (\d+)", html))) == set(range(2, 62))


def test_different_images_are_not_called_the_same(clean, capsys):
    assert "more than one split" not in looked(clean, capsys)
    outlines = {outline(drawn_image(120, 40, seed)) for seed in range(200)}
    assert len(outlines) == 200


def test_empty_and_inverted_images_are_named(tmp_path, capsys):
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": "word"} for i in range(60)])
    (folder / "3.png").write_bytes(encode(np.full((40, 120), 230, np.uint8)))
    (folder / "4.png").write_bytes(encode(255 - drawn_image(120, 40, 4)))
    (folder / "5.png").write_bytes(encode((255 - drawn_image(120, 40, 4)) // 16))  # both: it is named once
    out = looked(folder, capsys)
    assert "Images with next to nothing on them: 2, for example row 5" in out
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
        ("Ã©tÃ©", "'été' becomes where UTF-8 is opened as cp1252"),
        ("РџСЂРёРІРµС‚", "'Привет' becomes where UTF-8 is opened as cp1251"),
        ("An\u200dna", "U+200D (zero width joiner), which cannot be seen"),
        ("क्\u200d", "U+200D (zero width joiner), which cannot be seen"),
    ],
)
def test_odd_labels_are_explained(label, reason):
    assert reason in " ".join(odd_labels(label))


@pytest.mark.parametrize(
    "label",
    ["Anna", "it's", "12-B", "Ελένη", "Анна", "Ні", "naïve café", "São", "?!", "St. John", "क्\u200dष", "می\u200cشود"],
)
def test_ordinary_labels_are_not_odd(label):
    assert list(odd_labels(label)) == []


def test_images_too_long_for_the_tensor_are_named(tmp_path, capsys):
    rows = [{"filename": f"{i}.png", "text": "a line of words"} for i in range(30)]
    folder = write_dataset(tmp_path / "data", rows)
    for i in range(30):
        (folder / f"{i}.png").write_bytes(encode(drawn_image(640, 40, i)))
    assert "30 images are longer than 128 x 32" in looked(folder, capsys)
    for setting in ("transform.preset=line", "transform.resize=stretch"):
        assert "are longer than" not in looked(folder, capsys, "--set", setting)
    assert TransformConfig(preset="line").width / TransformConfig(preset="line").height > 640 / 40


def _minutes(out):
    return int(re.search(r"^Training: .* take about (\d+) minutes on", out, re.MULTILINE).group(1))


def test_long_trainings_and_small_data_are_said(clean, tmp_path, capsys):
    out = looked(clean, capsys)
    assert re.search(r"Training: [\d,]+ images in \d+ epochs, [\d,]+ steps, take about \d+ minutes on \d+ cores", out)
    assert "Training takes" not in out and "too few" not in out
    assert _minutes(looked(clean, capsys, "--set", "tune.trials=10")) == pytest.approx(3 * _minutes(out), abs=2)
    assert "steps, and a search of 1 trial of 4 epochs each before it, take" in looked(
        clean, capsys, "--set", "tune.trials=1", "--set", "tune.epochs=4"
    )
    out = looked(clean, capsys, "--set", "train.epochs=30000")
    assert re.search(r"Note: Training takes about \d+ (hours|days) on", out) and "--set data.limit=20000" in out
    nothing = ("--set", "train.warm_start=none")
    out = looked(clean, capsys, "--set", "data.limit=500", *nothing)
    assert "labels are little to learn from" in out and "500 rows in" in out
    out = looked(clean, capsys, "--set", "data.limit=200", *nothing)
    assert "Problem: 200 labels are too few to train a model" in out


def test_without_an_image_there_is_no_training_to_estimate(tmp_path, capsys):
    folder = write_dataset(tmp_path / "names", [{"filename": f"{number}.png", "text": ""} for number in range(3)])
    assert cli.main(["check", "--data", str(folder)]) == cli.TOO_MANY_REJECTS
    out = capsys.readouterr().out
    assert "No image falls into train" in out and "epochs" not in out


def test_lines_with_the_preset_for_words_are_told_the_other_one(tmp_path, capsys):
    folder, text = tmp_path / "lines", "many more characters than fit into an image"
    write_dataset(folder, [{"filename": f"{i}.png", "text": text} for i in range(20)])
    for i in range(1, 20):  # one remains that no preset has frames for
        (folder / f"{i}.png").write_bytes(encode(drawn_image(600, 40, i)))
    (folder / "0.png").write_bytes(encode(drawn_image(60, 40)))
    assert cli.main(["check", "--data", str(folder)]) == cli.TOO_MANY_REJECTS
    out = capsys.readouterr().out
    advice = "transform.preset=line has frames enough for 19 of these 20, which look like lines of text"
    assert "20 rejected: label_too_long, e.g. " in out and f"\n          {advice}\n" in out
    assert out.count(f"Most are label_too_long: {advice}.") == 2 and "No image falls into train, validation" not in out
    with pytest.raises(TooManyRejects, match=f"20 label_too_long. {advice}\\."):
        counts = {"accepted": {"train": 0}, "rejected": {"label_too_long": 20}}
        data = DataConfig(paths=[str(folder)])
        rejects = [(one.reason, one.detail) for one in examine_all(data, TransformConfig())]
        check_counts(counts, data, rejects, None)
    assert cli.main(["check", "--data", str(folder), "--set", "transform.width=132"]) == cli.TOO_MANY_REJECTS
    assert "transform.preset=line" not in capsys.readouterr().out, "a given width outlasts the preset"


def test_few_labels_adapt_a_base_model(clean, capsys):
    options = ("--set", "transform.preset=line", "--set", "data.limit=200")
    out = " ".join(looked(clean, capsys, *options).split())
    assert "starting from the base model for transform.preset=line" in out
    assert "Note: 200 labels would be too few to train a model from nothing; they adapt the base model" in out
    before, after = adapted_cer(200)
    assert after < before and f"brought its CER on other writers from {before:.2f} to {after:.2f}" in out
    out = " ".join(looked(clean, capsys, *options, "--set", "train.warm_start=none").split())
    assert "starting from nothing" in out and "Problem: 200 labels are too few" in out


def test_a_script_that_the_base_model_cannot_write_is_learnt_from_nothing(tmp_path, capsys):
    for script, label in (("greek", "λόγος 19001900"), ("latin", "logos 19001900")):
        rows = [{"filename": f"{number}.png", "text": label, "writer": str(number)} for number in range(60)]
        out = " ".join(looked(write_dataset(tmp_path / script, rows), capsys).split())
        told = "knows 4 of the 9 characters of these labels, and few of their letters"
        assert (told in out) == ("Problem: 60 labels are too few to train" in out) == (script == "greek")
        assert ("CER on other writers" in out) == (script == "latin")


def test_of_very_few_labels_no_figure_is_told_that_was_not_measured(tmp_path, capsys):
    for count, code in ((10, cli.OK), (1, cli.USAGE)):
        rows = [{"filename": f"{number}.png", "text": "a", "writer": str(number)} for number in range(count)]
        assert cli.main(["check", "--data", str(write_dataset(tmp_path / f"few{count}", rows))]) == code
        out = " ".join(capsys.readouterr().out.split())
        before, after = adapted_cer(50)
        told = f"50 labels brought its CER on other writers from {before:.2f} to {after:.2f}; fewer were not measured."
        assert (told in out) == (count == 10) and ("CER on other writers" in out) == (count == 10)


@pytest.mark.parametrize(
    ("bound", "least"), [("0.1", "7 evaluation images cannot show that a model meets gate.max_cer=0.1: that takes 29"),
                         ("0.3", "eval_fraction before the first run, or --set gate.max_cer=0.35, the least that so"),
                         ("0.35", None), ("null", None)],
)  # fmt: skip
def test_an_evaluation_split_that_is_too_small_for_the_gate(tmp_path, capsys, bound, least):
    generate(tmp_path / "names", images=60, writers=60, dirty_fraction=0)
    out = " ".join(looked(tmp_path / "names", capsys, "--set", f"gate.max_cer={bound}").split())
    assert least in out if least else "gate.max_cer" not in out


def test_texts_by_a_model_count_for_themselves(changed, capsys):
    def by_row(rows):
        for number, row in enumerate(rows):
            row |= {"split": "val" if number < 20 else "eval" if number < 40 else "train"}
            row |= {"labelling_model": "7" if number < 2 or number >= 340 else ""}

    folder = changed(by_row)
    out = " ".join(looked(folder, capsys, "--set", "train.warm_start=none").split())
    assert "Problem: A model wrote the texts of 2 images for validation (column labelling_model, in logs" in out
    rows = len((folder / "written_name.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert (
        f"Note: A model wrote the texts of {rows - 340} of {rows - 40} training images (column labelling_model" in out
    )
    assert "Note: 338 labels are little to learn from" in out


def test_texts_by_a_model_alone_are_no_labels(changed, capsys):
    folder = changed(lambda rows: [row.update(labelling_model="7") for row in rows] and None)
    assert "Problem: A model wrote all of these texts" in " ".join(looked(folder, capsys).split())


def test_the_page_does_not_advise_to_make_it(changed, tmp_path, capsys):
    def repeat(rows):
        return [*rows, rows[0]]

    folder = changed(repeat)
    assert "With --html FILE the check writes a page" in looked(folder, capsys)
    page = tmp_path / "check.html"
    assert "--html" not in looked(folder, capsys, "--html", str(page)) + page.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [360, 390, 1200])
def test_nothing_is_cut_on_a_phone(changed, tmp_path, capsys, width):
    browser = Browser(tmp_path)

    def worse(rows):
        rows = [{**row, "split": ("train", "train", "validation", "test")[i % 4]} for i, row in enumerate(rows)]
        rows = [{**row, "WRITER": "a_writer_of_a_very_long_name" * 3 if i < 40 else row["WRITER"]}
                for i, row in enumerate(rows)]  # fmt: skip
        return [*rows, {**rows[0], "FILENAME": "there_is_no_image_of_this_very_long_name" * 3 + ".png"}]

    page = tmp_path / "check.html"
    looked(changed(worse), capsys, "--html", str(page))
    try:
        browser.open(f"file://{page}", width)
        wide = browser.evaluate(
            "[...document.querySelectorAll('.wide, table, body')].filter(e => e.scrollWidth > e.clientWidth + 1 "
            "|| e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent.slice(0, 60))"
        )
    finally:
        browser.close()
    assert wide == []


def canvas(text, seed, size=1.0):
    """A word on a canvas of 256 x 64, as some datasets have them: its height on the canvas says nothing."""
    page = np.full((64, 256), 235, np.uint8)
    random = np.random.default_rng(seed)
    for i in range(len(text)):
        left = int(4 + i * 11 * size)
        for _ in range(3):
            ends = np.array([left, 20]) + random.integers(0, [int(9 * size), int(20 * size)], size=(2, 2))
            cv2.line(page, ends[0].tolist(), ends[1].tolist(), 40, 1)
    return page


def test_the_size_of_writing_on_canvases_of_one_size_is_no_reason_for_suspicion():
    random = np.random.default_rng(1)
    seen, sizes = [], random.uniform(0.45, 1.3, 300)
    for i, size in enumerate(sizes):
        text = "n" * int(random.integers(3, 15))
        label = "n" * 14 if i in (7, 8) else "n" * 3 if i in (9, 10) else text
        text = "nnn" if i in (7, 8) else "n" * 14 if i in (9, 10) else text
        grey = canvas(text, i, size)
        sample = Sample(f"{i}", "", b"", label, "", "train", 256, 64, (256, 64), {})
        ink = (grey < 200).astype(float)
        seen.append(Seen(sample, "", i, "", b"", 0, extent(ink.sum(0)), extent(ink.sum(1)), 200.0))
    found = [i for i, _ in misfits(seen)]
    assert set(found[:4]) == {7, 8, 9, 10}
    assert len(found) <= 6


def test_thousands_of_characters_do_not_fill_the_memory():
    random, seen = np.random.default_rng(0), []
    for i in range(2000):
        characters = random.integers(0x4E00, 0x4E00 + 4000, 20 if i == 7 else int(random.integers(2, 12)))
        columns = 50 if i == 7 else 30 * len(characters) + int(random.integers(-4, 5))
        sample = Sample(f"{i}", "", b"", "".join(map(chr, characters)), "", "train", 256, 40, (256, 40), {})
        seen.append(Seen(sample, "", i, "", b"", 0, columns, 28, 200.0))
    tracemalloc.start()
    try:
        assert [i for i, _ in misfits(seen)] == [7]
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("wrong", "swapped", "told"),
    [
        ([0], False, "Note: Labels that are much too long or too short for the ink of their image: 1 ("),
        (range(5), False, "Too long, as where writing is squeezed or cut off: 5.\n"),
        (range(7, 12), False, "Too short, as where an image has rules, stains or more words: 5.\n"),
        ([0, 1, 2, 9, 10, 11], True, "3 too long, 3 too short"),
    ],
    ids=["one", "squeezed", "stained", "swapped"],
)
def test_labels_are_called_swapped_where_they_are_too_long_and_too_short(tmp_path, capsys, wrong, swapped, told):
    lengths = [3 + i % 12 for i in range(60)]
    labels = [("n" * (17 - n if i in wrong else n)) for i, n in enumerate(lengths)]
    write_dataset(tmp_path, [{"filename": f"{i}.png", "text": label} for i, label in enumerate(labels)])
    for i, n in enumerate(lengths):
        (tmp_path / f"{i}.png").write_bytes(encode(canvas("n" * n, i)))
    out = looked(tmp_path, capsys)
    assert told in out and ("swapped or shifted" in out) == swapped


def test_characters_that_cannot_be_seen_have_numbers(tmp_path, capsys):
    labels = ["ab"] * 20 + ["a\u202eb", "a\u200bb", "e\u0333 b"]
    write_dataset(tmp_path, [{"filename": f"{i}.png", "text": label} for i, label in enumerate(labels)])
    out = looked(tmp_path, capsys)
    assert "7 characters: abe␣ ◌\u0333 U+200B U+202E\n" in out
    assert not set(out) & {"\u202e", "\u200b"}


def test_thousands_of_characters_are_not_printed_each(tmp_path, capsys):
    labels = ["".join(map(chr, range(0x4E00 + 5 * i, 0x4E05 + 5 * i))) for i in range(60)]
    write_dataset(tmp_path, [{"filename": f"{i}.png", "text": label} for i, label in enumerate(labels)])
    out = looked(tmp_path, capsys, "--html", str(tmp_path / "check.html"))
    assert "300 characters: 一" in out and f"{chr(0x4E00 + 199)} and 100 more\n" in out
    assert "and 100 more</p>" in (tmp_path / "check.html").read_text(encoding="utf-8")


def test_labels_that_say_nothing_about_the_ink_give_no_suspects():
    random = np.random.default_rng(1)
    seen = []
    for i in range(200):
        sample = Sample(f"{i}", "", b"", "n" * int(random.integers(3, 15)), "", "train", 256, 64, (256, 64), {})
        columns, rows = int(random.integers(240, 250)) // (1 if i % 10 else 3), int(random.integers(50, 60))
        seen.append(Seen(sample, "", i, "", b"", 0, columns, rows, 200.0))
    assert misfits(seen) == []
