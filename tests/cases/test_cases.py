"""Inputs that failed once: those that the tests make themselves, and the same ones of a folder where there is one.

`python -m pytest tests/cases` runs them all. HTR_CASES names the folder (default: ../shared/cases).
"""

import csv
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from components.example_gen.dataset import Sample, examine_all
from components.example_gen.rejects import Reject
from components.example_gen.settings import DataConfig
from components.tools.sample_data import generate
from components.transform.settings import TransformConfig
from pipeline import cli
from tests.cases import inputs
from tests.conftest import drawn_image

FOLDER = Path(os.environ.get("HTR_CASES", Path(__file__).parents[2] / ".." / "shared" / "cases"))


@pytest.fixture(scope="session")
def sample_images(tmp_path_factory):
    """Images of the sample data, by suffix."""
    folder = tmp_path_factory.mktemp("images")
    generate(folder / "data", images=240, writers=8, dirty_fraction=0)
    found = sorted((folder / "data" / "images").iterdir())
    return {suffix: [p for p in found if p.suffix in suffixes] for suffix, suffixes in
            ((".jpg", (".jpg", ".jpeg")), (".png", (".png",)))}  # fmt: skip


def _given(case, folder, sample_images):
    """Copies a case of the folder, with images of the sample data under the names of its rows."""
    source = FOLDER / case
    if not source.exists():
        pytest.skip(f"no folder of cases has {source}")
    files = [source] if source.is_file() else sorted(source.iterdir())
    folder.mkdir()
    for path in files:
        shutil.copy(path, folder / ("labels.csv" if source.is_file() else path.name))
    table = FOLDER / ("one-writer" if source.is_file() else case) / "labels.csv"
    with open(table, encoding="utf-8", newline="") as file:
        names = [row[0].strip() for row in csv.reader(file, skipinitialspace=True)][1:]
    for number, name in enumerate(names[:30]):
        of_kind = sample_images[".png" if name.endswith(".png") else ".jpg"]
        shutil.copy(of_kind[number % len(of_kind)], folder / name)
    return folder


def _made(case, folder):
    """Writes a case that the tests know themselves."""
    for name, content in inputs.LABELS.items():
        if name == case or name.startswith(f"{case}/"):
            path = folder / ("labels.csv" if case.startswith("csv/") else Path(name).name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return inputs.images(folder)


@pytest.fixture(params=["made", "given"])
def case(request, tmp_path, sample_images):
    """Makes the dataset of a case."""

    def prepare(name):
        folder = tmp_path / "data"
        return _made(name, folder) if request.param == "made" else _given(name, folder, sample_images)

    return prepare


def check(folder, capsys, code=0):
    """What `htr check` prints; wide tensors, so that no label of the sample images is too long for its image."""
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


def test_a_name_that_differs_in_case_is_found_and_counted(tmp_path, capsys):
    folder = _made("csv/sep.csv", tmp_path / "data")
    (folder / "1.png").rename(folder / "1.PNG")
    assert len(texts(folder)[0]) == 30
    assert "Found though the name differs in case from what the row says: 1 image." in check(folder, capsys)


@pytest.mark.parametrize("source", ["made", "given"])
def test_a_gif_is_named(tmp_path, capsys, source):
    folder = _made("csv/sep.csv", tmp_path / "data")
    if source == "made":
        Image.fromarray(drawn_image(120, 40)).save(folder / "12.gif")
    elif (FOLDER / "gif" / "12.gif").exists():
        shutil.copy(FOLDER / "gif" / "12.gif", folder)
    else:
        pytest.skip(f"no folder of cases is {FOLDER}")
    out = check(folder, capsys)
    assert "holds images of formats that are not read: 1 .gif. Save them as JPEG or PNG" in out
    with open(folder / "labels.csv", "a", encoding="utf-8") as file:
        file.write("12.gif;ab;me\n")
    found, rejects = texts(folder)
    if len(found) == 30:  # newer OpenCV decodes them
        assert ".gif is not read: save the image as JPEG or PNG" in rejects[0].detail


def test_the_folder_of_cases_has_none_that_is_unknown_here():
    if not FOLDER.exists():
        pytest.skip(f"no folder of cases is {FOLDER}")
    here = {name for path in inputs.LABELS for name in (path, path.partition("/")[0])} | {"gif", "csv"}
    found = {path.name for path in FOLDER.iterdir() if path.is_dir()} | {f"csv/{p.name}" for p in
             (FOLDER / "csv").iterdir()}  # fmt: skip
    assert found <= here, "a case without a test"
