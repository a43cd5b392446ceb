"""htr import into an output of earlier runs: what is kept, made again or deleted, and when it refuses."""

import csv
import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

from components.common import storage
from components.pages.files import ImportProblem
from components.tools.page_import.importing import import_pages
from pipeline import cli
from tests.components.tools.test_page_import import LOCAL, add_page, darkness, drawn_page, run
from tests.conftest import encode, failing_disk


def test_a_repeated_import_does_what_is_missing(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    add_page(folder, name="a", image="a.png")
    add_page(folder, name="b", image="b.png", place=False)
    first, rows, _ = run(folder, output)
    assert (first.new, first.lines) == (2, 3)
    kept = output / rows[0]["filename"]
    before = kept.stat().st_mtime_ns
    add_page(folder, name="b", image="b.png")
    add_page(folder, name="c", image="c.png")
    second, rows, left_out = run(folder, output)
    assert (second.new, second.lines, left_out) == (2, 9, [])
    assert kept.stat().st_mtime_ns == before
    _, page = drawn_page()
    add_page(folder, name="a", image="a.png", lines=page.lines[:1])
    third, rows, _ = run(folder, output)
    assert (third.new, third.lines) == (1, 7)
    assert kept.exists() and len(list(kept.parent.iterdir())) == 1
    with pytest.raises(ImportProblem, match="begun with"):
        import_pages([str(folder / "..")], str(output), LOCAL)
    assert run(folder, output, overwrite=True)[0].new == 3


def test_what_a_power_cut_has_emptied_is_made_again(tmp_path):
    folder, output, state = add_page(add_page(tmp_path / "in"), "b", "b.png"), tmp_path / "out", tmp_path / "out.state"
    first, rows, _ = run(folder, output)
    records = [path for path in state.glob("*.json") if path.name != "manifest.json"]
    records[0].write_bytes(b"")
    again, rows_again, left_out = run(folder, output)
    assert (again.new, again.lines, left_out) == (1, first.lines, []) and rows_again == rows
    (output / rows[0]["filename"]).write_bytes(b"")
    assert run(folder, output)[0].new == 1 and (output / rows[0]["filename"]).stat().st_size > 0
    (state / "manifest.json").write_bytes(b"")
    with pytest.raises(ImportProblem, match=r"manifest\.json is damaged\. .* begin this one again with --overwrite"):
        run(folder, output)
    records[1].write_bytes(b"")
    assert run(folder, output, overwrite=True)[0].new == 2


def test_an_outage_of_the_disk_ends_an_import_instead_of_leaving_out_its_pages(tmp_path):
    folder, output = add_page(add_page(tmp_path / "in"), "b", "b.png"), tmp_path / "out"
    _, rows, _ = run(folder, output)
    os.utime(folder / "b.png", (1, 1))
    with failing_disk("in/b.png"), pytest.raises((OSError, RuntimeError), match="Stale file handle"):
        run(folder, output)
    outcome, rows_again, left_out = run(folder, output)
    assert (outcome.new, rows_again, left_out) == (1, rows, [])


def test_an_overwrite_deletes_no_file_that_no_import_has_written(tmp_path):
    folder = add_page(add_page(tmp_path / "in"), "b", "b.png")
    output = tmp_path / "out"
    run(folder, output)
    mine = [output / "notes.txt", output / "images" / "in" / "mine.png", tmp_path / "out.state" / "mine.txt"]
    for path in mine:
        path.write_text("mine")
    (folder / "b.xml").unlink()
    outcome, rows, _ = run(folder, output, overwrite=True)
    assert (outcome.new, outcome.lines) == (1, 3)
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert len(list(output.rglob("0*.png"))) == len(rows)


def test_corrections_in_the_table_are_not_overwritten(tmp_path):
    folder, output = add_page(tmp_path / "in"), tmp_path / "out"
    labels = Path(run(folder, output)[0].labels)
    add_page(folder, "b", "b.png")
    run(folder, output)
    written = labels.read_text()
    labels.write_text(corrected := written.replace("line 0", "Line zero"))
    add_page(folder, "c", "c.png")
    with pytest.raises(ImportProblem, match=r"out/labels\.csv was changed .*Correct the XML files.*--overwrite"):
        run(folder, output)
    assert labels.read_text() == corrected
    labels.write_text(written)
    assert run(folder, output)[0].lines == 9
    rows = list(csv.reader(labels.read_text().splitlines()))
    with open(labels, "w", encoding="utf-8-sig", newline="") as file:  # as a spreadsheet saves it
        csv.writer(file, delimiter=";", quoting=csv.QUOTE_ALL).writerows(rows)
    assert run(folder, output)[0].lines == 9
    labels.write_text(",".join(rows[0]) + "\n")
    with pytest.raises(ImportProblem, match="was changed"):
        run(folder, output)
    labels.write_bytes(b"\xff\xfe")
    with pytest.raises(ImportProblem, match="was changed"):
        run(folder, output)
    labels.write_text(corrected)
    assert run(folder, output, overwrite=True)[0].lines == 9 and "zero" not in labels.read_text()


def test_a_kill_beside_the_table_does_not_pass_for_corrections(tmp_path, monkeypatch):
    folder, output = add_page(tmp_path / "in"), tmp_path / "out"
    run(folder, output)
    add_page(folder, "b", "b.png")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", _killed(os.replace))
        run(folder, output)
    assert run(folder, output)[0].lines == 6


def _killed(replace):
    def killed(source, target):
        if str(target).endswith("labels.csv"):
            raise KeyboardInterrupt
        replace(source, target)

    return killed


def test_a_page_whose_file_is_gone_leaves_nothing_in_the_dataset(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_page(add_page(tmp_path / "in"), "b", "b.png")
    assert cli.main(["import", "in", "--output", "out"]) == cli.OK
    assert "Removed" not in capsys.readouterr().out
    (tmp_path / "in" / "b.xml").unlink()
    assert cli.main(["import", "in", "--output", "out"]) == cli.OK
    assert "Removed: the lines of 1 page whose XML file is gone" in capsys.readouterr().out
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3
    assert len(list((tmp_path / "out.state").glob("*.json"))) == 2
    outcome, rows, _ = run(tmp_path / "in", tmp_path / "out")
    assert (outcome.removed, len(rows)) == (0, 3)


def test_the_second_file_of_a_page_is_not_cut_again_while_the_first_is_there(tmp_path):
    folder = add_page(add_page(tmp_path / "in", "a"), "b", kind="alto")
    output = tmp_path / "out"
    first, rows, left_out = run(folder, output)
    assert (first.new, first.lines, first.left_out_pages) == (2, 3, {"same_image": 1})
    again, same, left_again = run(folder, output)
    assert (again.new, same, left_again) == (0, rows, left_out)
    (folder / "a.xml").unlink()
    other, rows, left_out = run(folder, output)
    assert (other.new, other.removed, left_out) == (1, 1, [])
    assert {row["page"] for row in rows} == {"in/b"} and len(list(output.rglob("*.png"))) == len(rows) == 3


@pytest.mark.parametrize("x_has_a_page", [True, False])
def test_a_page_that_found_the_image_of_another_folder_takes_its_own_once_it_is_there(tmp_path, x_has_a_page):
    folder, output = tmp_path / "in", tmp_path / "out"
    add_page(folder / "x")
    if not x_has_a_page:
        (folder / "x" / "scan.xml").unlink()
    add_page(folder / "y", place=False)
    _, rows, _ = run(folder, output)
    assert {row["page"] for row in rows} == {"in/x/scan" if x_has_a_page else "in/y/scan"}
    assert run(folder, output)[0].new == 0
    (folder / "y" / "scan.png").write_bytes(encode(drawn_page()[0] // 2 + 100, ".png"))
    second, rows, left_out = run(folder, output)
    assert (second.new, second.unnamed, left_out) == (1, int(not x_has_a_page), [])
    (row, *_) = [row for row in rows if row["page"] == "in/y/scan"]
    assert darkness(output, row) > 90


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    folder = add_page(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ImportProblem, match="was not made by htr import"):
            run(folder, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_another_import_into_the_same_output_is_refused(tmp_path):
    folder, refused = add_page(tmp_path / "in"), []

    def begin_another(_):
        with pytest.raises(ImportProblem, match=r"Another htr import works on .*out and holds .*\.lock") as problem:
            run(folder, tmp_path / "out", overwrite=True)
        refused.append(problem)

    assert run(folder, tmp_path / "out", started=begin_another)[0].lines == 3
    assert len(refused) == 1 and run(folder, tmp_path / "out")[0].new == 0


def test_an_import_from_a_bucket_goes_on_where_it_stopped(tmp_path):
    bucket = f"memory://{uuid.uuid4().hex}/scans"  # fsspec's file system in memory
    storage.copy_tree(str(add_page(add_page(tmp_path / "scans"), "other", "other.png")), bucket)
    first, rows, _ = run(bucket, tmp_path / "lines")
    assert (first.new, first.lines) == (2, 6)
    storage.write(f"{bucket}/other.png", encode(drawn_page()[0] // 2, ".png"))
    again, same, _ = run(bucket, tmp_path / "lines")
    assert (again.new, same) == (1, rows)


def test_images_that_are_gone_are_cut_again(tmp_path):
    folder = add_page(tmp_path / "scans")
    outcome, _, _ = run(folder, tmp_path / "lines")
    shutil.rmtree(tmp_path / "lines")  # by hand, or by an --overwrite that was killed
    again, rows, _ = run(folder, tmp_path / "lines")
    assert (again.new, again.lines) == (1, outcome.lines)
    assert all((tmp_path / "lines" / row["filename"]).exists() for row in rows)


def test_pages_that_a_release_has_cut_in_another_way_are_cut_again(tmp_path):
    folder = add_page(add_page(add_page(tmp_path / "in"), "b", "b.png"), "c", "c.png")
    first, rows, _ = run(folder, tmp_path / "out")
    cut, known, _ = (path for path in (tmp_path / "out.state").glob("*.json") if path.name != "manifest.json")
    cut.write_text(json.dumps({**json.loads(cut.read_text()), "cuts": 0}))
    record = json.loads(known.read_text())
    del record["place"]
    known.write_text(json.dumps(record))
    again, same, _ = run(folder, tmp_path / "out")
    assert (first.new, again.new, same) == (3, 2, rows)
    assert run(folder, tmp_path / "out")[0].new == 0
