"""htr import: a dataset that ExampleGen accepts, and a reason for each page and line that it does not have."""

import csv
import json
import os
import re
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from components.common import storage
from components.example_gen.dataset import Sample, examine_all
from components.example_gen.settings import DataConfig
from components.pages.files import ImportProblem, find_pages
from components.tools.page_import import importing
from components.tools.page_import.importing import import_pages
from components.transform.settings import TransformConfig
from htr_client import pages
from htr_client.pages import Line, Page
from pipeline import cli
from tests.conftest import encode, failing_bucket

pytestmark = pytest.mark.either_stack

LOCAL = ["--runner=FnApiRunner"]
TWO_WORKERS = [*LOCAL, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
WIDTH, HEIGHT = 400, 300


def drawn_page(lines=3):
    """A page whose lines are words of another darkness each, and the description of it."""
    grey = np.full((HEIGHT, WIDTH), 240, np.uint8)
    found = []
    for number in range(lines):
        y = 60 + 80 * number
        cv2.putText(grey, f"line {number}", (40, y), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 10 + 40 * number, 3)
        outline = ((30, y - 35), (300, y - 35), (300, y + 15), (30, y + 15))
        found.append(Line(f"line {number}", ((30, y), (300, y)), outline, id=f"id{number}", region="r"))
    return grey, Page("scan.png", WIDTH, HEIGHT, tuple(found))


def add_page(folder: Path, name="scan", image="scan.png", kind="page", grey=None, place=None, **changes):
    """Writes an XML file, and its image beside it or elsewhere."""
    drawn, page = drawn_page()
    page = Page(**{**vars(page), "image": image, **changes})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.xml").write_text(pages.write(page, kind), encoding="utf-8")
    if place is not False:
        path = Path(place) if place else folder / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(drawn if grey is None else grey, path.suffix))
    return folder


def run(folder, output, beam_args=LOCAL, **options):
    outcome = import_pages([str(folder)], str(output), beam_args, **options)
    return outcome, table(outcome.labels), table(outcome.left_out_table)


def table(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def darkness(output, row):
    return int(cv2.imread(str(output / row["filename"]), cv2.IMREAD_GRAYSCALE).min())


def test_the_dataset_is_one_that_example_gen_accepts(tmp_path):
    folder = add_page(tmp_path / "in")
    add_page(folder / "deeper", name='zwei, "2"', image="other.png", kind="alto", document="will 7")
    output = tmp_path / "out"
    outcome, rows, left_out = run(folder, output)
    assert (outcome.pages, outcome.lines, outcome.writers, outcome.without_document) == (2, 6, 2, 1)
    assert left_out == []
    samples = list(examine_all(DataConfig(paths=[str(output)]), TransformConfig(preset="line")))
    assert [(sample.text, sample.writer) for sample in samples if isinstance(sample, Sample)] == [
        (f"line {number}", writer) for writer in ("in/scan", "will 7") for number in range(3)
    ]  # fmt: skip
    for number, row in enumerate(rows[:3]):
        assert abs(darkness(output, row) - 10 - 40 * number) < 5
        assert row["line"] == f"id{number}" and row["page"] == "in/scan"
    assert sorted(os.listdir(output)) == ["images", "labels.csv"]


@pytest.mark.parametrize(
    ("image", "place"),
    [
        ("scan.png", "page/scan.png"),
        ("scan.png", "scan.png"),  # as Transkribus: XML files in the folder page, images above
        ("C:\\scans\\old\\scan.png", "page/scan.png"),
        ("/nowhere/scan.png", "page/scan.png"),
        ("https://iiif.example.org/7/scan.png", "scan.png"),
        ("sub/scan.png", "page/sub/scan.png"),
        ("scan.tif", "page/scan.png"),  # converted since
        ("SCAN.PNG", "page/scan.png"),
        ("file7.png", "images/page1.png"),  # named as the XML file
        ("", "page/page1.png"),
        ("scan.png", "images/scan.png"),
    ],
)
def test_images_are_found_whatever_the_file_calls_them(tmp_path, image, place):
    folder = add_page(tmp_path / "in" / "page", name="page1", image=image, place=tmp_path / "in" / place)
    outcome, _, left_out = run(folder.parent, tmp_path / "out")
    assert (outcome.lines, left_out) == (3, [])


def test_no_image_outside_of_the_folder_is_read(tmp_path):
    secret = tmp_path / "secret" / "scan.png"
    for number, name in enumerate((str(secret), "../secret/scan.png", secret.as_uri())):
        add_page(tmp_path / "in", name=f"p{number}", image=name, place=secret)
    outcome, rows, left_out = run(tmp_path / "in", tmp_path / "out")
    assert rows == []
    assert {row["reason"] for row in left_out} <= {"outside_folder", "missing_file"}
    assert outcome.left_out_pages["outside_folder"] >= 1
    assert run(tmp_path / "in", tmp_path / "out2", allow_outside=True)[0].lines == 3  # one image is one page


def test_pages_on_a_turned_or_scaled_image(tmp_path):
    drawn, page = drawn_page()
    folder = tmp_path / "in"
    exif = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = encode(np.rot90(drawn), ".jpg")  # orientation 6: to be turned clockwise
    turned = jpeg[:2] + exif + jpeg[2:]
    add_page(folder, name="upright", image="upright.jpg")
    (folder / "upright.jpg").write_bytes(turned)
    # The same file, whose lines were drawn by a tool that does not turn it.
    stored = tuple(
        Line(line.text, *(tuple((y, WIDTH - 1 - x) for x, y in p) for p in (line.baseline, line.polygon)))
        for line in page.lines
    )
    add_page(folder, name="stored", image="stored.jpg", width=HEIGHT, height=WIDTH, lines=stored)
    (folder / "stored.jpg").write_bytes(turned)
    add_page(folder, name="tiff", image="tiff.tif", width=HEIGHT, height=WIDTH, lines=stored)
    Image.fromarray(np.rot90(drawn).copy()).save(folder / "tiff.tif", tiffinfo={274: 6})
    add_page(folder, name="half", image="half.png", grey=cv2.resize(drawn, (WIDTH // 2, HEIGHT // 2)))
    add_page(folder, name="unknown", image="unknown.png", width=0, height=0)
    add_page(folder, name="wrong", image="wrong.png", grey=np.full((300, 300), 255, np.uint8))
    output = tmp_path / "out"
    outcome, rows, left_out = run(folder, output)
    names = ("upright", "stored", "tiff", "unknown")
    by_page = {page: [row for row in rows if row["page"] == f"in/{page}"] for page in names}
    expected = pages.cut_line(drawn, page.lines[1])
    for found in by_page.values():
        assert [row["text"] for row in found] == ["line 0", "line 1", "line 2"]
        cut = cv2.imread(str(output / found[1]["filename"]), cv2.IMREAD_GRAYSCALE)
        assert np.abs(cv2.resize(cut, expected.shape[::-1]).astype(int) - expected).mean() < 6
    assert outcome.lines == 15
    assert [(row["page"], row["reason"]) for row in left_out] == [("in/wrong", "other_image")]
    assert "400 x 300" in left_out[0]["detail"] and "300 x 300" in left_out[0]["detail"]


def test_pages_on_an_image_upside_down_are_cut_where_their_ink_is(tmp_path):
    drawn, page = drawn_page(lines=2)
    turned = tuple(
        Line(line.text, *(tuple((WIDTH - 1 - x, HEIGHT - 1 - y) for x, y in p) for p in (line.baseline, line.polygon)))
        for line in page.lines
    )
    add_page(tmp_path / "in", name="obeyed", image="obeyed.tif", lines=page.lines)
    add_page(tmp_path / "in", name="passed-over", image="passed-over.tif", lines=turned)
    outlines = tuple(replace(line, baseline=()) for line in page.lines)
    add_page(tmp_path / "in", name="z-outlines", image="outlines.tif", lines=outlines)
    for name in ("obeyed", "passed-over", "outlines"):
        Image.fromarray(np.rot90(drawn, 2).copy()).save(tmp_path / "in" / f"{name}.tif", tiffinfo={274: 3})
    outcome, rows, _ = run(tmp_path / "in", tmp_path / "out")
    assert outcome.lines == 6
    for row, line in zip(rows, 3 * page.lines, strict=True):
        expected = pages.cut_line(drawn, line)
        cut = cv2.imread(str(tmp_path / "out" / row["filename"]), cv2.IMREAD_GRAYSCALE)
        assert np.abs(cv2.resize(cut, expected.shape[::-1]).astype(int) - expected).mean() < 6


def test_everything_left_out_has_a_reason(tmp_path):
    folder = tmp_path / "in"
    _, page = drawn_page()
    good = page.lines[0]
    lines = (
        good,
        Line(),
        Line("nowhere"),
        Line("far", polygon=((900, 9), (999, 9), (999, 50))),
        Line("flat", ((1, 1), (90, 1))),
        Line("doubled", ((50, 60), (60, 60), (50, 60)), ((20, 40), (300, 40), (300, 70), (20, 70))),
    )
    add_page(folder, name="a-lines", image="a.png", lines=lines)
    add_page(folder, name="b-missing", image="b.png", place=False)
    add_page(folder, name="c-cut", image="c.png")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:200])
    add_page(folder, name="d-empty", image="d.png", lines=())
    add_page(folder, name="e-large", image="e.png", grey=np.full((600, 800), 255, np.uint8))
    (folder / "f-damaged.xml").write_text("<PcGts><Page>")
    (folder / "g-mets.xml").write_text("<mets/>")
    (folder / "._h.xml").write_text("a Mac's")
    (folder / "i-bomb.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><PcGts>&a;</PcGts>')
    os.mkfifo(folder / "j-pipe.xml")
    outcome, rows, left_out = run(folder, tmp_path / "out", max_pixels=WIDTH * HEIGHT)
    assert [row["text"] for row in rows] == ["line 0", "flat"]
    assert [(row["page"][3:], row["reason"]) for row in left_out] == [
        ("a-lines", "no_text"), ("a-lines", "no_geometry"), ("a-lines", "outside_image"), ("a-lines", "bad_geometry"),
        ("b-missing", "missing_file"),
        ("c-cut", "image_truncated"), ("d-empty", "no_lines"), ("e-large", "image_too_large"),
        ("f-damaged", "damaged_xml"), ("g-mets", "not_a_page"), ("i-bomb", "damaged_xml"),
        ("j-pipe", "unreadable_file"),
    ]  # fmt: skip
    assert all(row["detail"] for row in left_out) and all(row["line"] for row in left_out[:3])
    assert outcome.left_out == {"no_text": 1, "no_geometry": 1, "outside_image": 1, "bad_geometry": 1}
    assert outcome.left_out_pages["damaged_xml"] == 2 and outcome.pages == 9


def test_an_image_is_imported_once(tmp_path):
    folder = add_page(tmp_path / "in" / "page", place=tmp_path / "in" / "scan.png")
    add_page(folder.parent / "alto", kind="alto", place=False)
    # Its own image is missing: it must not be given that of another document.
    add_page(folder.parent / "a" / "document", place=False)
    outcome, rows, left_out = run(folder.parent, tmp_path / "out")
    assert {row["page"] for row in rows} == {"in/alto/scan"} and outcome.lines == 3
    assert [(row["page"], row["reason"]) for row in left_out] == [
        ("in/a/document/scan", "same_image"), ("in/page/scan", "same_image")
    ]  # fmt: skip
    assert {path.parent.parent.name for path in (tmp_path / "out").rglob("*.png")} == {"alto"}
    shutil.rmtree(folder.parent / "alto")  # the other one takes its place
    _, rows, _ = run(folder.parent, tmp_path / "out")
    assert {row["page"] for row in rows} == {"in/page/scan"}
    assert all((tmp_path / "out" / row["filename"]).exists() for row in rows)


def test_a_page_without_its_image_does_not_get_that_of_another_document(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lost, others = tmp_path / "in" / "a", tmp_path / "in" / "b"
    for name in ("empty", "damaged", "converted"):
        add_page(lost, name, f"{name}.png", kind="alto", document="lost", place=False)
        add_page(others, name, f"{name}.png", **({"lines": ()} if name == "empty" else {}))
    (others / "damaged.xml").write_text("<PcGts><Page>")
    (others / "converted.png").rename(others / "converted.jpg")
    _, rows, left_out = run(tmp_path / "in", tmp_path / "out")
    assert {(row["page"], row["writer"]) for row in rows} == {("in/b/converted", "in/b/converted")}
    assert [(row["page"], row["reason"]) for row in left_out] == [
        ("in/a/converted", "same_image"), ("in/a/damaged", "same_image"), ("in/a/empty", "same_image"),
        ("in/b/damaged", "damaged_xml"), ("in/b/empty", "no_lines"),
    ]  # fmt: skip
    assert run(tmp_path / "in", tmp_path / "out")[1:] == (rows, left_out)
    (others / "empty.xml").unlink()  # now nothing tells that the image is another document's
    assert cli.main(["import", "in", "--output", "again"]) == cli.OK
    said = f"found by its name in another folder: 1, such as {others}/empty.png for in/a/empty"
    assert said in capsys.readouterr().out


def test_of_two_files_of_a_page_the_one_with_outlines_is_used_and_either_names_the_document(tmp_path):
    """As Transkribus exports them: ALTO has boxes, and no document."""
    page = drawn_page()[1]
    boxes = tuple(replace(line, baseline=((30, line.box[3] - 15), (300, line.box[3] - 15))) for line in page.lines)
    outlined = tuple(
        replace(line, polygon=(*line.polygon, (29, line.box[1] + 20)), baseline=((30, 0), (90, 1))) for line in boxes
    )
    folder = add_page(tmp_path / "in" / "alto", kind="alto", lines=boxes, place=tmp_path / "in" / "scan.png")
    add_page(tmp_path / "in" / "page", lines=outlined, place=False)
    (folder / "scan.xml").write_text((folder / "scan.xml").read_text().replace("30,95 300,95", "95"))
    xml = tmp_path / "in" / "page" / "scan.xml"
    xml.write_text(xml.read_text().replace("</Metadata>", '<TranskribusMetadata docId="77"/></Metadata>'))
    outcome, rows, left_out = run(folder.parent, tmp_path / "out")
    assert {(row["page"], row["writer"]) for row in rows} == {("in/page/scan", "77")}
    assert [(row["page"], row["reason"]) for row in left_out] == [("in/alto/scan", "same_image")]
    xml.write_text(re.sub("<Unicode>[^<]*</Unicode>", "<Unicode/>", xml.read_text()))  # it has lost its texts
    outcome, rows, _ = run(folder.parent, tmp_path / "out")
    assert {(row["page"], row["writer"]) for row in rows} == {("in/alto/scan", "77")}
    assert (outcome.writers, outcome.without_document) == (1, 0)


def test_pages_that_a_run_has_written_are_not_imported(tmp_path):
    add_page(tmp_path / "scans", "a", "a.png")
    workspace = tmp_path / "scans" / "workspace"
    add_page(workspace / "pipeline" / "BulkInferrer", "b", "b.png")
    (workspace / "metadata.db").touch()
    assert [Path(page.path).name for page in find_pages([str(tmp_path / "scans")])] == ["a.xml"]


def test_writers_by_folder_or_pattern(tmp_path):
    for name in ("will1/page/a-0", "will1/page/a-1", "will2/b-0"):
        path = tmp_path / "in" / name
        add_page(path.parent, name=path.name, place=False)

    def writers(rule):
        return [page.writer for page in find_pages([str(tmp_path / "in")], rule)]

    assert writers("auto") == ["", "", ""]
    assert writers("folder") == ["in/will1", "in/will1", "in/will2"]
    assert writers(r"/([^/]*)-\d+$") == ["a", "a", "b"]
    assert writers("will.") == ["will1", "will1", "will2"]
    with pytest.raises(ImportProblem, match="no writer in 1 of 3 page names, such as in/will2/b-0"):
        writers("will1")
    with pytest.raises(ImportProblem, match="nor a regular expression"):
        writers("fold(er")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportProblem, match="no XML file"):
        find_pages([str(tmp_path / "empty")])


@pytest.mark.slow
@pytest.mark.either_stack
def test_workers_give_the_same_dataset(tmp_path):
    folder = tmp_path / "in"
    for number in range(12):
        add_page(folder, name=f"p{number}", image=f"p{number}.png")
    run(folder, tmp_path / "one")
    run(folder, tmp_path / "two", TWO_WORKERS)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 37
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_page(tmp_path / "in", name="café-1", image="a.png")
    assert cli.main(["import", "in", "--output", "lines"]) == 0
    said = capsys.readouterr().out
    assert "3 lines of 1 page in" in said and "--writer" in said and "htr check --data lines" in said
    assert cli.main(["import", "in", "--output", "lines", "--writer", "(.*)-1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["new"], told["lines"], told["without_document"]) == (0, 3, 0)
    assert {row["writer"] for row in table("lines/labels.csv")} == {"in/café"}
    for wrong in (["nowhere", "--output", "x"], ["in", "--output", "in/lines"], ["in", "--output", "gs://b/x"]):
        assert cli.main(["import", *wrong]) == 2
    (tmp_path / "in" / "a.png").unlink()
    assert cli.main(["import", "in", "--output", "none"]) == 1
    assert "none-left-out.csv says why" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [".xml", ".png"])
def test_a_bucket_that_fails_ends_the_import_instead_of_leaving_out_its_pages(tmp_path, capsys, monkeypatch, missing):
    monkeypatch.chdir(tmp_path)
    bucket = f"memory://{uuid.uuid4().hex}/scans"
    storage.copy_tree(str(add_page(add_page(tmp_path / "scans"), "other", "other.png")), bucket)
    with failing_bucket(missing):
        assert cli.main(["import", bucket, "--output", "lines"]) == cli.ERROR
    error = capsys.readouterr().err
    assert "503 Slow Down" in error and "The same command goes on where this one stopped." in error
    assert cli.main(["import", bucket, "--output", "lines"]) == cli.OK
    assert "6 lines of 2 pages" in capsys.readouterr().out


def test_a_page_beside_a_folder_of_its_name_keeps_its_images_and_theirs(tmp_path):
    """As a METS file, or a page of a whole book, lies beside the pages of the book."""
    scans = tmp_path / "one"
    names = ("book", "book/p0", "book/p1", "book/p2", "book/p0/x", "book.cut/p0", "book.cut_/p0", "book.cut")
    for number, name in enumerate(names):
        path = scans / name
        add_page(path.parent, path.name, f"{number}.png")
    output = tmp_path / "out"
    outcome, rows, left_out = run(scans, output)
    assert (outcome.new, outcome.lines, left_out) == (len(names), 3 * len(names), [])
    assert len({row["filename"] for row in rows}) == len(rows)
    assert all((output / row["filename"]).exists() for row in rows)
    again, same, _ = run(scans, output)
    assert (again.new, same) == (0, rows)
    (scans / "book.xml").write_text("<mets/>")
    changed, rest, _ = run(scans, output)
    assert (changed.new, len(rest)) == (1, len(rows) - 3)
    assert all((output / row["filename"]).exists() for row in rest)
    assert len(list(output.rglob("*.png"))) == len(rest)


def test_images_that_vanish_while_others_are_cut_are_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_page(add_page(tmp_path / "in", "a", "a.png"), "b", "b.png")
    decide = importing.lost_claims

    def meanwhile(claims):  # when all pages are cut
        next(Path("lines").rglob("b*/0002.png")).unlink()
        return decide(claims)

    monkeypatch.setattr(importing, "lost_claims", meanwhile)
    assert cli.main(["import", "in", "--output", "lines", "--json"]) == cli.ERROR
    said = capsys.readouterr()
    told = json.loads(said.out.splitlines()[-1])
    assert (told["lines"], told["left_out_pages"]) == (3, {"lost_images": 1})
    assert "Images of lines of 1 page are gone" in said.err and "lines-left-out.csv" in said.err
    (lost,) = table("lines-left-out.csv")
    assert (lost["page"], lost["reason"]) == ("in/b", "lost_images") and "1 of 3 images" in lost["detail"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["import", "in", "--output", "lines"]) == cli.OK
    assert "6 lines of 2 pages" in capsys.readouterr().out


def test_images_that_no_page_names_are_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scans = add_page(tmp_path / "in")
    add_page(scans, "damaged", "damaged.png").joinpath("damaged.png").write_bytes(b"found, but no image")
    (scans / "more").mkdir()
    for name in ("more/2.JPG", "more/3.png", "more/.hidden.png", "more/notes.txt"):
        (scans / name).write_bytes(encode(drawn_page()[0]))
    (scans / "more" / "link.png").symlink_to(scans / "scan.png")  # an image that a page has
    assert cli.main(["import", "in", "--output", "lines"]) == cli.OK
    assert f"Images that no page names: 2, such as {scans}/more/2.JPG" in capsys.readouterr().out
    assert cli.main(["import", "in", "--output", "lines", "--json"]) == cli.OK
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["unnamed"], told["unnamed_example"]) == (2, f"{scans}/more/2.JPG")
    reference = (Path(__file__).parents[3] / "docs" / "reference.md").read_text(encoding="utf-8")
    documented = reference.split("**`htr import`**: ")[1].split("\n\n")[0]
    assert [name for name in told if f"`{name}`" not in documented] == []
    shutil.rmtree(scans / "more")
    assert cli.main(["import", "in", "--output", "lines"]) == cli.OK
    assert "no page names" not in capsys.readouterr().out


def test_images_of_a_bucket_that_no_page_names_are_told(tmp_path):
    bucket = f"memory://{uuid.uuid4().hex}/scans"
    storage.copy_tree(str(add_page(tmp_path / "scans")), bucket)
    storage.write(f"{bucket}/other.png", encode(drawn_page()[0]))
    outcome, _, _ = run(bucket, tmp_path / "lines")
    assert (outcome.lines, outcome.unnamed, outcome.unnamed_example) == (3, 1, f"{bucket}/other.png")
