"""htr import: whose an image is where images and XML files lie in different folders."""

from dataclasses import replace

import pytest

from components.tools.page_import.importing import import_pages
from tests.components.tools.test_page_import import LOCAL, add_page, darkness, drawn_page, run, table

pytestmark = pytest.mark.either_stack


def add_pages(root, *names, images="img", xml="xml"):
    """Pages in trees of their own for images and XML files; all images of the same shape, each darker than the last."""
    for number, name in enumerate(names):
        volume = name.rpartition("/")[0]
        grey = drawn_page()[0] // (number + 1)
        add_page(root / xml / volume, "0001", "0001.png", grey=grey, place=root / images / f"{name}.png")
    return root


def pages_of(rows):
    return sorted({row["page"] for row in rows})


def test_the_image_of_one_volume_is_not_given_to_the_page_of_another_one(tmp_path):
    folder = add_pages(tmp_path / "ms", "v1/0001", "v2/0001")
    _, page = drawn_page()
    add_page(folder / "xml" / "v1", "0001", "0001.png", place=False, lines=page.lines[:1])  # less than that of v2
    (folder / "img" / "v2" / "0001.png").unlink()
    _, rows, left_out = run(folder, tmp_path / "out")
    assert pages_of(rows) == ["ms/xml/v1/0001"]
    assert [(row["page"], row["reason"]) for row in left_out] == [("ms/xml/v2/0001", "same_image")]


def test_volumes_that_number_their_pages_alike_find_their_images(tmp_path):
    folder = add_pages(tmp_path / "ms", "v1/0001", "v2/0001", "v3/0001", xml="transcriptions/page")
    (folder / "img" / "v3" / "0001.png").rename(folder / "img" / "v3" / "0001.jpg")  # converted since
    _, rows, left_out = run(folder, tmp_path / "out")
    assert left_out == []
    firsts = {row["page"][-7:-5]: darkness(tmp_path / "out", row) for row in rows if row["text"] == "line 2"}
    assert firsts["v1"] > firsts["v2"] > firsts["v3"]


def test_an_image_above_its_page_is_no_other_documents(tmp_path):
    """As Transkribus exports documents, with images that were converted since."""
    for document in ("one", "two"):
        folder = tmp_path / "in" / document
        add_page(folder / "page", "0001", "0001.tif", place=folder / "0001.jpg")
    outcome, rows, left_out = run(tmp_path / "in", tmp_path / "out")
    assert (pages_of(rows), left_out) == (["in/one/page/0001", "in/two/page/0001"], [])
    assert outcome.elsewhere == 0


def test_an_image_belongs_to_the_file_that_names_it_as_it_lies_whatever_another_one_knows_of_its_lines(tmp_path):
    outlined = tuple(replace(line, polygon=(*line.polygon, (29, line.box[1] + 20))) for line in drawn_page()[1].lines)
    folder = add_page(tmp_path / "in", "a", "scan.tif", lines=outlined, place=False)
    _, rows, left_out = run(add_page(folder, "b", "scan.png"), tmp_path / "out")
    assert {row["page"] for row in rows} == {"in/b"}
    assert [(row["page"], row["reason"]) for row in left_out] == [("in/a", "same_image")]


def test_an_image_that_may_be_of_two_folders_is_given_to_neither(tmp_path):
    folder = tmp_path / "ms"
    add_page(folder / "v1", "0001", "0001.png", place=folder / "img" / "0001.png")
    add_page(folder / "v2", "0001", "0001.png", place=False)
    for _ in range(2):  # also when it is repeated
        _, rows, left_out = run(folder, tmp_path / "out")
        assert rows == []
        assert {(row["page"], row["reason"]) for row in left_out} == {
            ("ms/v1/0001", "ambiguous_file"), ("ms/v2/0001", "ambiguous_file")
        }  # fmt: skip
        assert f"{folder}/img/0001.png may be the image of ms/v1/0001 or of ms/v2/0001" in left_out[0]["detail"]
    (folder / "v2" / "0001.xml").unlink()
    assert pages_of(run(folder, tmp_path / "out")[1]) == ["ms/v1/0001"]


def test_xml_files_of_one_input_folder_find_their_images_in_the_other_one(tmp_path):
    """As `htr transcribe --input scans --output corrected --format page` leaves them."""
    for name in ("0001", "b/0001", "c/0001"):
        add_pages(tmp_path, name, images="scans", xml="corrected")
    outcome = import_pages([str(tmp_path / "corrected"), str(tmp_path / "scans")], str(tmp_path / "out"), LOCAL)
    assert (outcome.lines, outcome.left_out_pages, outcome.unnamed) == (9, {}, 0)
    # Of two folders with images of their own, none lends one to the other.
    (tmp_path / "scans" / "b" / "0001.png").rename(tmp_path / "corrected" / "0001.png")
    outcome = import_pages([str(tmp_path / "corrected"), str(tmp_path / "scans")], str(tmp_path / "more"), LOCAL)
    left_out = {(row["page"], row["reason"]) for row in table(outcome.left_out_table)}
    assert left_out == {("corrected/b/0001", "same_image"), ("corrected/c/0001", "same_image")}


def test_two_images_that_fit_a_name_are_told_instead_of_none(tmp_path):
    folder = add_page(tmp_path / "in", "1", "1.jpg")
    xml = folder / "1.xml"
    xml.write_text(xml.read_text().replace("1.jpg", "1.tif"))
    (folder / "1.png").write_bytes((folder / "1.jpg").read_bytes())
    _, _, (left_out,) = run(folder, tmp_path / "out")
    assert left_out["reason"] == "ambiguous_file"
    assert f"{folder}/1.jpg and {folder}/1.png" in left_out["detail"]
