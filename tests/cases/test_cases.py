"""Inputs that failed once."""

import re
from pathlib import Path

import pytest
from PIL import Image

from components.example_gen.dataset import Sample, examine_all
from components.example_gen.rejects import Reject
from components.example_gen.settings import DataConfig
from components.transform.settings import TransformConfig
from pipeline import cli
from tests.cases import inputs
from tests.conftest import drawn_image


@pytest.fixture
def case(tmp_path):
    """Makes the dataset of a case."""

    def make(name):
        folder = tmp_path / "data"
        for file, content in inputs.LABELS.items():
            if file == name or file.startswith(f"{name}/"):
                path = folder / ("labels.csv" if name.startswith("csv/") else Path(file).name)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return inputs.images(folder)

    return make


def check(folder, capsys, code=0):
    """What `htr check` prints; wide tensors, so that no label is too long for its image."""
    settings = ["--set", "transform.preset=line", "--set", "data.max_rejected=1"]
    assert cli.main(["check", "--data", str(folder), *settings]) == code
    out = capsys.readouterr()
    return out.err if code else out.out


def texts(folder):
    found = list(examine_all(DataConfig(paths=[str(folder)]), TransformConfig(preset="line")))
    return [result.text for result in found if isinstance(result, Sample)], [r for r in found if isinstance(r, Reject)]


@pytest.mark.parametrize("name", ["csv/sep.csv", "csv/blank_first_line.csv", "quotes-after-space", "mac-zip"])
def test_all_rows_are_read(case, capsys, name):
    folder = case(name)
    found, rejects = texts(folder)
    assert len(found) == 30 and not rejects
    assert found[0] == "für" and "25 kg" in found and not any(text.startswith('"') for text in found)
    assert "30 rows in" in check(folder, capsys)


def test_hidden_files_are_passed_over_and_counted(case, capsys):
    assert "passed over 2 hidden or system files, such as ._0.jpg" in check(case("mac-zip"), capsys)


def test_a_missing_header_is_named(case, capsys):
    err = check(case("csv/noheader.csv"), capsys, cli.USAGE)
    assert "The first line looks like data (`0.jpg`): there is no header. Add a line before it" in err
    assert "its 2 columns, such as `filename,text`" in err


def test_a_workbook_is_named(case, capsys):
    err = check(case("csv/xlsx.csv"), capsys, cli.USAGE)
    assert "labels.csv is an Excel workbook" in err and 'save it as "CSV UTF-8"' in err


def test_missing_extensions_are_filled_in_and_counted(case, capsys):
    folder = case("csv/noext.csv")
    assert len(texts(folder)[0]) == 30
    assert "Found by adding the extension that the row leaves out (0 for 0.jpg): 30 images" in check(folder, capsys)


def test_one_writer_is_split_image_by_image(case, capsys):
    out = check(case("one-writer"), capsys)
    assert all(re.search(rf"[1-9] accepted for {split}, 1 writer\n", out) for split in ("train", "validation", "eval"))
    assert "The labels name 1 writer, too few" in out and "images are split one by one" in out
    assert "error on unseen writers is underestimated" in out
    assert "Writers of the evaluation split" not in out and "falls into" not in out


def test_right_to_left_is_named_as_a_problem(case, capsys):
    out = check(case("right-to-left"), capsys)
    (line,) = [
        line for line in out.splitlines() if line.startswith("Problem: Rows whose labels are written from right")
    ]
    assert "(Hebrew " in line and "Arabic 1)" in line and "row 5 of data/labels.csv" in line
    assert "not supported" in line


def test_a_name_that_differs_in_case_is_found_and_counted(case, capsys):
    folder = case("csv/sep.csv")
    (folder / "1.png").rename(folder / "1.PNG")
    assert len(texts(folder)[0]) == 30
    assert "Found though the name differs in case from what the row says: 1 image." in check(folder, capsys)


def test_a_gif_is_named(case, capsys):
    folder = case("csv/sep.csv")
    Image.fromarray(drawn_image(120, 40)).save(folder / "12.gif")
    out = check(folder, capsys)
    assert "holds images of formats that are not read: 1 .gif. Save them as JPEG or PNG" in out
    with open(folder / "labels.csv", "a", encoding="utf-8") as file:
        file.write("12.gif;ab;me\n")
    found, rejects = texts(folder)
    if len(found) == 30:  # newer OpenCV decodes them
        assert ".gif is not read: save the image as JPEG or PNG" in rejects[0].detail
