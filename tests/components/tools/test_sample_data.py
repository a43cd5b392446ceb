"""The sample data: same bytes for a seed, good images good, dirty rows as announced, fonts complete."""

import csv
import hashlib
import subprocess
import sys
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from components.tools.sample_data import DIRTY_KINDS, Summary, fonts, generate, generator, render
from components.tools.sample_data.words import WORDS
from pipeline.demo import data as demo_data

CHARACTERS = set("".join(WORDS))

IMAGES = 400
DIRTY_FRACTION = 0.04  # 16 rows: each of the eight kinds twice


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return generate(tmp_path_factory.mktemp("sample"), images=IMAGES, seed=3, dirty_fraction=DIRTY_FRACTION)


def read_rows(summary: Summary) -> list[dict[str, str]]:
    with summary.csv.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def good_rows(summary: Summary) -> list[dict[str, str]]:
    dirty = {row.row for row in summary.dirty_rows}
    return [row for number, row in enumerate(read_rows(summary), start=1) if number not in dirty]


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, second, other = (
        generate(tmp_path / name, images=120, seed=seed, dirty_fraction=0.1)
        for name, seed in (("first", 5), ("second", 5), ("other", 6))
    )
    assert digest(first.directory) == digest(second.directory)
    assert first.dirty_rows == second.dirty_rows
    assert [row["IDENTITY"] for row in read_rows(first)] != [row["IDENTITY"] for row in read_rows(other)]


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    # String hashes, and with them the order of sets, differ from process to process.
    code = "import sys; from components.tools.sample_data import generate; generate(sys.argv[1], images=40, seed=5)"
    root = Path(__file__).parents[3]
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, cwd=root)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_csv_has_the_kaggle_columns_and_one_row_a_image(sample: Summary) -> None:
    rows = read_rows(sample)
    assert list(rows[0]) == ["FILENAME", "IDENTITY", "WRITER"]
    assert len(rows) == sample.rows == IMAGES
    assert len({row["FILENAME"].lower() for row in rows}) == IMAGES
    assert all("/" not in row["FILENAME"] for row in rows)


def test_formats_and_extensions_are_mixed(sample: Summary) -> None:
    extensions = Counter(Path(row["FILENAME"]).suffix for row in good_rows(sample))
    assert {".jpg", ".JPG", ".jpeg", ".png", ".PNG"} <= set(extensions)
    for row in good_rows(sample):
        path = sample.images / row["FILENAME"]
        with Image.open(path) as image:
            assert image.format == ("PNG" if path.suffix.lower() == ".png" else "JPEG")


def test_every_good_image_decodes_and_has_dark_ink_on_light_paper(sample: Summary) -> None:
    for row in good_rows(sample):
        content = (sample.images / row["FILENAME"]).read_bytes()
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert image is not None, row
        paper = float(np.median(image))
        assert paper > 160, row
        ink = (image < paper - 40).mean()
        assert 0.01 < ink < 0.5, (row, ink)


def test_sizes_are_varied_and_not_too_wide(sample: Summary) -> None:
    sizes = []
    for row in good_rows(sample):
        with Image.open(sample.images / row["FILENAME"]) as image:
            sizes.append((*image.size, row["IDENTITY"]))
    assert all(render.MIN_HEIGHT <= height <= render.MAX_HEIGHT for _, height, _ in sizes)
    assert all(width <= render.MAX_ASPECT * height for width, height, _ in sizes)
    assert len({height for _, height, _ in sizes}) > 15
    assert len({width for width, _, _ in sizes}) > 50
    # A network with a frame for every four columns at height 32 must be able to spell the label.
    for width, height, text in sizes:
        frames = min(128, round(width * 32 / height)) // 4
        doubled = sum(a == b for a, b in pairwise(text))
        assert len(text) + doubled <= frames, (text, width, height)


def test_long_labels_stay_below_the_widest_aspect() -> None:
    longest = [*sorted(WORDS, key=len)[-5:], "W" * 16]
    for number, font in enumerate(fonts.FONTS):
        writer = render.make_writer("w", font, np.random.default_rng(number))
        for text in longest:
            height, width = render.render(text, writer, np.random.default_rng(number)).shape[:2]
            assert width <= render.MAX_ASPECT * height, (font.name, text)


def test_dirty_rows_are_what_the_summary_says(sample: Summary) -> None:
    rows = read_rows(sample)
    assert sample.dirty == dict.fromkeys(DIRTY_KINDS, 2)
    assert sum(sample.dirty.values()) == len(sample.dirty_rows) == round(IMAGES * DIRTY_FRACTION)
    assert sample.good == IMAGES - len(sample.dirty_rows)
    labels = {"empty_label": "", "label_empty": "EMPTY", "label_unreadable": "UNREADABLE"}
    for dirty in sample.dirty_rows:
        row, path = rows[dirty.row - 1], sample.images / dirty.filename
        assert row["FILENAME"] == dirty.filename
        if dirty.kind in labels:
            assert row["IDENTITY"] == labels[dirty.kind]
            with Image.open(path) as image:
                image.load()
            continue
        assert row["IDENTITY"] in WORDS
        if dirty.kind == "missing_file":
            assert not path.exists()
        elif dirty.kind == "zero_byte_file":
            assert path.stat().st_size == 0
        elif dirty.kind == "text_file":
            assert path.suffix.lower() == ".png"
            assert "not an image" in path.read_text(encoding="utf-8")
        else:
            start, end = {
                "truncated_png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
                "truncated_jpeg": (b"\xff\xd8\xff", b"\xff\xd9"),
            }[dirty.kind]
            content = path.read_bytes()
            assert content.startswith(start)
            assert not content.endswith(end)
            with pytest.raises(OSError), Image.open(path) as image:
                image.load()


def test_no_rows_are_dirty_but_those_in_the_summary(sample: Summary) -> None:
    missing = {row["FILENAME"] for row in read_rows(sample)} - {path.name for path in sample.images.iterdir()}
    assert missing == {row.filename for row in sample.dirty_rows if row.kind == "missing_file"}
    assert all(row["IDENTITY"] in WORDS for row in good_rows(sample))


def test_readme_lists_the_dirty_rows(sample: Summary) -> None:
    text = (sample.directory / "README.txt").read_text(encoding="utf-8")
    listed = [line.split() for line in text.splitlines()]
    for row in sample.dirty_rows:
        assert [str(row.row), row.filename, row.kind] in listed
    for kind, count in sample.dirty.items():
        assert any(words[:2] == [str(count), kind] for words in listed)


def test_share_of_dirty_rows() -> None:
    kinds = Counter(generator.choose_dirty(3500, 0.015, seed=1).values())
    assert set(kinds) == set(DIRTY_KINDS)
    assert sum(kinds.values()) == 52
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert generator.choose_dirty(3500, 0.0, seed=1) == {}


def test_writers_have_about_the_same_number_of_images(sample: Summary) -> None:
    counts = Counter(row["WRITER"] for row in read_rows(sample))
    assert len(counts) == sample.writers == 48
    assert max(counts.values()) - min(counts.values()) <= 1


def test_every_font_is_shared_by_writers_that_differ() -> None:
    writers = generator.make_writers(48, seed=1)
    shared = Counter(writer.font.name for writer in writers)
    assert set(shared) == {font.name for font in fonts.SAMPLE_FONTS}
    assert min(shared.values()) >= 3
    assert len({(writer.slant, writer.stroke, writer.height) for writer in writers}) == 48


def test_labels_are_varied_and_mildly_skewed() -> None:
    labels = Counter(generator.draw_labels(3500, seed=1))
    assert len(labels) > 900
    assert 5 <= labels.most_common(1)[0][1] <= 40
    written = Counter("".join(labels.elements()))
    assert set(written) == CHARACTERS
    assert min(written.values()) >= 5


def test_word_list() -> None:
    assert len(WORDS) == len(set(WORDS)) > 500
    assert "7647" in WORDS
    assert all(2 <= len(word) <= 16 and word == word.strip() for word in WORDS)
    assert all(unicodedata.is_normalized("NFC", word) for word in WORDS)
    # A good row must not look like a missing value or a placeholder, to us or to pandas.
    assert not {word.lower() for word in WORDS} & {"empty", "unreadable", "nan", "na", "null", "none", "n/a"}
    assert set("éüöçñä '-0123456789") <= CHARACTERS


@pytest.mark.parametrize("font", fonts.SAMPLE_FONTS, ids=lambda font: font.name)
def test_every_font_has_ink_for_every_character(font: fonts.FontInfo) -> None:
    glyphs = fonts.load_glyphs(font)
    assert glyphs.missing(CHARACTERS) == set()
    for character in set(CHARACTERS) - {" "}:
        glyph = glyphs.glyph(character)
        assert glyph is not None
        assert (glyph.mask > 127).sum() >= 20, character


def test_a_character_without_glyph_is_noticed() -> None:
    glyphs = fonts.load_glyphs(fonts.FONTS[0])
    assert glyphs.missing("a漢\u0416") == {"漢", "\u0416"}
    assert not glyphs.can_write("漢")
    writer = render.make_writer("w", fonts.FONTS[0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="cannot write"):
        render.render("漢", writer, np.random.default_rng(0))


def test_a_font_is_not_used_for_labels_it_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writers = generator.make_writers(14, seed=1)
    lacking = fonts.load_glyphs(writers[0].font)
    monkeypatch.setitem(lacking._glyphs, "é", None)
    assert generator.matching_writer(writers, 0, "cafe") is writers[0]
    assert generator.matching_writer(writers, 0, "café") is writers[1]


def test_fonts_are_credited_and_small() -> None:
    credits = (fonts.FONT_DIR / "LICENSES.md").read_text(encoding="utf-8")
    files = {path.name for path in fonts.FONT_DIR.glob("*.woff")}
    assert files == {path.name for font in fonts.FONTS for path in font.paths}
    assert all(f"| @fontsource/{font.name} " in credits for font in fonts.FONTS)
    assert "SIL OPEN FONT LICENSE" in (fonts.FONT_DIR / "OFL.txt").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in fonts.FONT_DIR.iterdir()) < 3_000_000


def test_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        generate(tmp_path, images=3)
    with pytest.raises(FileExistsError, match="is a file"):
        generate(tmp_path / "mine.txt", images=3)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_writes_into_an_empty_or_new_folder(tmp_path: Path) -> None:
    summary = generate(tmp_path, images=1)
    assert (summary.rows, summary.good, summary.writers) == (1, 1, 1)
    assert generate(tmp_path / "new" / "folder", images=3).csv.exists()


@pytest.mark.parametrize(
    "arguments", [{"images": 0}, {"writers": 0}, {"seed": -1}, {"dirty_fraction": 1.5}, {"dirty_fraction": -0.1}]
)
def test_refuses_arguments_out_of_range(tmp_path: Path, arguments: dict) -> None:
    with pytest.raises(ValueError, match="must"):
        generate(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_generation_that_is_stopped_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", stop)  # of the file that describes the set, after its images
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "names", images=3)
    assert not list(tmp_path.iterdir())
    generate(tmp_path / "names", images=3)


def test_needs_no_tensorflow() -> None:
    code = "import sys, components.tools.sample_data as _; sys.exit(bool({'tensorflow', 'tfx'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_the_demo_renders_anew_what_was_interrupted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (tmp_path / "data.unfinished" / generator.IMAGE_DIR).mkdir(parents=True)
    demo_data.render(data, 12)
    before = (data / generator.CSV_NAME).stat()
    demo_data.render(data, 12)
    assert (data / generator.CSV_NAME).stat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
