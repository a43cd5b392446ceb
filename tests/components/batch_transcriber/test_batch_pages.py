"""Folders of pages: each becomes rows of a table or a file of its own, and nothing is lost or done twice."""

import csv
import json
import os
from typing import get_args

import cv2
import numpy as np
import pytest

from components.batch_transcriber import batch, suspects
from components.batch_transcriber.output import BatchError
from components.batch_transcriber.settings import BulkConfig
from components.batch_transcriber.shards import Job
from components.batch_transcriber.transcribing import Transcriber
from components.batch_transcriber.writing import remark
from components.common import storage
from htr_client import pages
from htr_client.files import PAGE_FORMATS
from pipeline import cli
from serving.local import LocalClient
from tests.components.toy_reader import bars, save_line_finder
from tests.conftest import encode

LOCAL = ["--runner=FnApiRunner"]


@pytest.fixture
def folder(tmp_path):
    """Pages, of which one has no line; an image of a word, one that is cut off, one whose name is not UTF-8."""
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    bar = cv2.imdecode(np.frombuffer(bars(150), np.uint8), cv2.IMREAD_GRAYSCALE)
    (folder / "1.png").write_bytes(bars(150, 250, 350))
    (folder / "b" / "1.png").write_bytes(bars(200, 300))
    (folder / "b" / "empty.png").write_bytes(bars())
    (folder / "word.png").write_bytes(encode(bar[110:160, 50:300]))
    (folder / "cut.png").write_bytes(bars(150)[:-30])
    (folder / "notes.txt").write_text("passed over")
    with open(os.path.join(os.fsencode(folder), b"caf\xe9.png"), "wb") as file:
        file.write(bars(200, 300, 400, width=500))
    return folder


@pytest.fixture
def transcribe(folder, models, tmp_path):
    """Transcribes the folder into an output below the test's folder; a shard holds about two images."""

    def run(output, kind="page", **settings):
        settings = {"images_per_shard": 2, **settings}
        return batch.transcribe(
            str(folder), str(tmp_path / output), Transcriber(models[0], kind, models[1]), LOCAL, **settings
        )

    return run


def rows(folder, pattern):
    found = []
    for path in sorted(folder.glob(pattern)):
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            found += csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
    return found


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_lines_of_pages_in_a_table(transcribe, folder, models, tmp_path):
    outcome = transcribe("texts.jsonl", "auto")
    assert (outcome.images, outcome.new, outcome.errors, outcome.shards) == (6, 6, 1, 3)
    assert (outcome.pages, outcome.lines, outcome.incomplete) == (3, 8, {"no_lines": 1})
    table = rows(tmp_path, "texts-0*.jsonl")
    numbers = {path: [row["line"] for row in table if row["path"] == path] for path in {row["path"] for row in table}}
    assert numbers == {
        "1.png": [1, 2, 3],
        "b/1.png": [1, 2],
        "b/empty.png": [1],
        "word.png": [1],
        "caf\udce9.png": [1, 2, 3],
    }
    with LocalClient(models[0], line_finder=models[1]) as client:
        lines = client.transcribe_page(folder / "1.png").lines
    first = [(row["text"], row["confidence"]) for row in table if row["path"] == "1.png"]
    assert first == [(line.text, pytest.approx(line.confidence, abs=1e-5)) for line in lines]
    named = {error["path"]: error["reason"] for error in rows(tmp_path, "texts-errors.jsonl")}
    assert named == {"b/empty.png": "no_lines", "cut.png": "truncated"}
    assert transcribe("texts.jsonl", "auto").new == 0
    transcribe("texts.csv", "auto")
    assert [{**row, "line": str(row["line"]), "confidence": str(row["confidence"])} for row in table] == rows(
        tmp_path, "texts-0*.csv"
    )


def test_a_page_without_lines_is_in_the_table_and_named(transcribe, folder, tmp_path):
    outcome = transcribe("texts.csv")
    assert (outcome.pages, outcome.errors, outcome.incomplete) == (5, 1, {"no_lines": 1})
    [empty] = [row for row in rows(tmp_path, "texts-0*.csv") if row["path"] == "b/empty.png"]
    assert (empty["line"], empty["text"], empty["suspicions"]) == ("0", "", "no_lines")
    named = {row["path"]: row["reason"] for row in rows(tmp_path, "texts-errors.csv")}
    assert named == {"b/empty.png": "no_lines", "cut.png": "truncated"}
    assert transcribe("texts.csv").new == 0
    assert {row["path"]: row["reason"] for row in rows(tmp_path, "texts-errors.csv")} == named


@pytest.mark.parametrize(("form", "ending"), [("alto", "xml"), ("csv", "csv")])
def test_each_page_becomes_a_file(transcribe, folder, tmp_path, form, ending):
    outcome = transcribe("out", "auto", format_=form)
    assert (outcome.images, outcome.errors, outcome.lines, outcome.example) == (6, 1, 9, str(tmp_path / "out"))
    found = files(tmp_path / "out")
    names = {f"1.{ending}", f"b/1.{ending}", f"b/empty.{ending}", f"word.{ending}", f"caf\udce9.{ending}"}
    assert set(found) == names
    if ending == "xml":
        page = pages.read(found["b/1.xml"])
        assert (page.image, len(page.lines)) == ("1.png", 2) and all(line.text for line in page.lines)


def test_second_run_does_only_what_is_new_or_changed(transcribe, folder, tmp_path):
    transcribe("out", format_="page")
    before = files(tmp_path / "out")
    assert transcribe("out", format_="page").new == 0 and files(tmp_path / "out") == before
    (folder / "new.png").write_bytes(bars(200))
    (folder / "1.jpg").write_bytes(encode(np.full((300, 300), 250, np.uint8), ".jpg"))  # beside 1.png
    (folder / "b" / "1.png").write_bytes(bars(200)[:-30])
    (folder / "word.png").unlink()
    (tmp_path / "out" / "b" / "empty.xml").unlink()
    outcome = transcribe("out", format_="page")
    assert (outcome.new, outcome.errors, outcome.incomplete) == (4, 2, {"no_lines": 2})
    assert (outcome.pages, outcome.lines) == (5, 7)
    assert (outcome.kept, outcome.deleted) == (0, 2)
    after = files(tmp_path / "out")
    assert set(after) == {"1.xml", "1.jpg.xml", "b/empty.xml", "caf\udce9.xml", "new.xml"}
    assert {name: after[name] for name in ("1.xml", "caf\udce9.xml")}.items() <= before.items()
    (folder / "1.jpg").unlink()
    outcome = transcribe("out", format_="page")
    assert (outcome.new, outcome.deleted) == (0, 1) and "1.jpg.xml" not in files(tmp_path / "out")
    outcome = transcribe("out", format_="page", overwrite=True)
    assert (outcome.new, outcome.kept) == (6, 0)


def test_images_that_differ_in_their_endings_are_in_one_shard():
    job = Job("in", "out", 1000, "page", "alto", has_documents=True)
    assert job.shard_of("a/1.jpg") == job.shard_of("a/1.png") != job.shard_of("a/2.png")


CORRECTED = b"<corrected by='hand'/>"


def correct(output, *names):
    for name in names:
        (output / name).write_bytes(CORRECTED)


def test_a_corrected_file_is_neither_replaced_nor_deleted(transcribe, folder, models, tmp_path, capfd):
    transcribe("out", format_="page")
    output, arguments = tmp_path / "out", ["transcribe", "--input", folder, "--output", tmp_path / "out"]
    arguments += ["--model", models[0], "--line-finder", models[1], "--format", "page", "--workspace", tmp_path / "w"]
    correct(output, "1.xml", "b/1.xml", "word.xml")
    (folder / "1.jpg").write_bytes((folder / "1.png").read_bytes())  # beside 1.png
    os.utime(folder / "b" / "1.png", (1, 1))
    os.utime(folder / "b" / "empty.png", (1, 1))
    (folder / "word.png").unlink()
    os.remove(os.path.join(os.fsencode(folder), b"caf\xe9.png"))
    assert cli.main([str(argument) for argument in arguments]) == 0
    told = capfd.readouterr().out
    assert f"\nKept as they are: 2 files that somebody has changed, see {output}-errors.csv\n" in told
    assert "\nDeleted: 1 file whose images have gone or are damaged now\n" in told
    kept = {
        row["path"]: row["detail"] for row in rows(tmp_path, "out-errors.csv") if row["reason"] == "changed_document"
    }
    assert set(kept) == {"b/1.png", "word.xml"} and "Delete it to have the page transcribed" in kept["b/1.png"]
    assert {name for name, data in files(output).items() if data == CORRECTED} == {"1.xml", "b/1.xml", "word.xml"}
    assert set(files(output)) == {"1.xml", "1.jpg.xml", "b/1.xml", "b/empty.xml", "word.xml"}

    (folder / "word.png").write_bytes(bars(200))  # it is there again
    outcome = transcribe("out", format_="page")
    assert (outcome.new, outcome.kept, outcome.deleted) == (1, 2, 0)
    (output / "b" / "1.xml").unlink()
    outcome = transcribe("out", format_="page")
    assert (outcome.new, outcome.kept) == (1, 1) and len(pages.read((output / "b" / "1.xml").read_bytes()).lines) == 2
    assert cli.main([str(argument) for argument in (*arguments, "--overwrite", "--json")]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["new"], told["kept"], told["deleted"], told["incomplete"]) == (6, 2, 0, {"no_lines": 1})
    assert {name for name, data in files(output).items() if data == CORRECTED} == {"1.xml", "word.xml"}


def test_what_a_killed_run_has_written_is_its_own(transcribe, folder, models, tmp_path):
    """It has written documents, and no record yet."""
    transcribe("out", format_="page")
    for record in (tmp_path / "out.state").glob("[0-9]*.json"):
        record.unlink()
    correct(tmp_path / "out", "b/1.xml")
    (folder / "word.png").unlink()
    (folder / "1.png").write_bytes(bars(150))
    outcome = transcribe("out", format_="page")
    assert (outcome.new, outcome.kept, outcome.deleted) == (5, 1, 1)
    assert len(pages.read((tmp_path / "out" / "1.xml").read_bytes()).lines) == 1
    for record in (tmp_path / "out.state").glob("[0-9]*.json"):
        record.unlink()
    outcome = transcribe("out", format_="alto", overwrite=True)
    assert (outcome.new, outcome.kept) == (5, 1)
    found = files(tmp_path / "out")
    assert found.pop("b/1.xml") == CORRECTED and len(found) == 3
    assert all(b"<alto" in data for data in found.values())


def test_a_folder_may_have_the_name_of_a_document(transcribe, folder, tmp_path):
    (folder / "1.xml").mkdir()
    (folder / "1.xml" / "2.png").write_bytes(bars(200))
    transcribe("out", format_="page")
    found = files(tmp_path / "out")
    assert {"1.png.xml", "1.xml/2.xml", "b/1.xml"} <= set(found) and "1.xml" not in found
    assert transcribe("out", format_="page").new == 0


def test_an_overwrite_deletes_no_file_that_no_batch_has_written(transcribe, folder, tmp_path):
    transcribe("out", format_="page")
    mine = tmp_path / "out" / "b" / "notes.txt"
    mine.write_text("mine")
    (folder / "b" / "1.png").unlink()
    assert transcribe("out", format_="text", overwrite=True).new == 5
    assert set(files(tmp_path / "out")) == {"1.txt", "b/empty.txt", "b/notes.txt", "caf\udce9.txt", "word.txt"}
    assert mine.read_text() == "mine"


def test_what_cannot_go_on_says_why(transcribe, folder, models, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "page.xml").write_text("corrected by hand")
    with pytest.raises(BatchError, match=r"mine holds files, .* there is no .*mine\.state\. Name a new folder"):
        transcribe("mine", format_="page", overwrite=True)
    with pytest.raises(BatchError, match="Images of lines become a table"):
        transcribe("out", "line", format_="page")
    with pytest.raises(BatchError, match=r"ends neither in \.jsonl nor in \.csv\. .* add --format, such as"):
        transcribe("out")
    with pytest.raises(BatchError, match="name a folder instead of"):
        transcribe("texts.csv", format_="alto")
    with pytest.raises(BatchError, match="is no SavedModel"):
        batch.transcribe(
            str(folder), str(tmp_path / "out"), Transcriber(models[0], "page", str(folder)), LOCAL, format_="page"
        )
    transcribe("out", format_="page")
    with pytest.raises(BatchError, match="begun in the format page, not text"):
        transcribe("out", format_="text")
    transcribe("texts.csv", "line")
    with pytest.raises(BatchError, match=r"begun for images of the kind line, not page.*--overwrite"):
        transcribe("texts.csv")
    other = save_line_finder(tmp_path / "finder" / "2")
    with pytest.raises(BatchError, match="too, but another line finder, --decoder, --lm or"):
        batch.transcribe(
            str(folder), str(tmp_path / "out"), Transcriber(models[0], "page", other), LOCAL, format_="page"
        )


def test_the_command(folder, models, tmp_path, capfd):
    (folder / "b" / "scan.PDF").write_bytes(b"%PDF-1.7\n")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    arguments = ["transcribe", "--input", folder, "--model", models[0],
                 "--workspace", tmp_path / "w"]  # fmt: skip

    def run(*more, finder=("--line-finder", models[1])):
        code = cli.main([str(argument) for argument in (*arguments, *finder, *more)])
        told = capfd.readouterr()
        return code, told.out, told.err

    code, out, _ = run("--output", tmp_path / "out", "--format", "alto")
    apart = tmp_path / "out-errors.csv"
    assert code == 0 and f"5 of 8 images in {tmp_path / 'out'}; 3 could not be read, see {apart}, of them " in out
    assert "of them 1 .heic and 1 .pdf: convert these to JPEG or PNG" in out
    assert f"\n5 pages with 9 lines, 1 with no lines, see {apart}\n" in out and "earlier" not in out
    errors = {row["path"]: row["detail"] for row in rows(tmp_path, "out-errors.csv")}
    assert "PDF document" in errors["b/scan.PDF"] and "HEIC image" in errors["phone.heic"]
    assert len(files(tmp_path / "out")) == 5
    code, out, _ = run("--output", tmp_path / "texts.csv", "--kind", "auto", "--json")
    told = json.loads(out)
    assert code == 0 and told["lines"] == 8 and told["images"] == told["pictures"] == 8
    code, out, _ = run("--output", tmp_path / "best.csv", "--kind", "auto", "--decoder", "best_path")
    assert code == 0 and rows(tmp_path, "best-00000-of-00001.csv") == rows(tmp_path, "texts-00000-of-00001.csv")
    small = ["--output", tmp_path / "small.csv", "--set", "data.max_megapixels=0.5"]
    for kind, least in (("page", 4), ("line", 4)):
        code, out, _ = run(
            *small, "--kind", kind, "--overwrite", finder=() if kind == "line" else ("--line-finder", models[1])
        )
        too_large = [row for row in rows(tmp_path, "small-errors.csv") if row["reason"] == "too_large"]
        assert code == 0 and len(too_large) >= least and "--set data.max_megapixels" in too_large[0]["detail"]
    code, out, _ = run(*small, "--set", "data.max_megapixels=50", finder=())
    assert code == 0 and {row["reason"] for row in rows(tmp_path, "small-errors.csv")}.isdisjoint({"too_large"})
    code, out, _ = run("--output", tmp_path / "lines.csv", "--shard-size", "100", finder=())
    assert out.startswith(f"5 of 8 images in 1 file like {tmp_path / 'lines-00000-of-00001.csv'}; 3 could not be read")
    assert "\nSuspect images, whose texts may be nonsense: 1 blank, 3 page_like\n" in out
    assert "\nTranscribed as one line, but of the shape of a page: 3 images. If so: --kind auto\n" in out
    for path in errors:
        os.remove(os.path.join(os.fsencode(folder), os.fsencode(path)))
    code, out, _ = run("--output", tmp_path / "lines.csv", finder=())
    assert out.startswith(f"4 images in 1 file like {tmp_path / 'lines-00000-of-00001.csv'}\n")
    assert "\nDone by an earlier run: 4" in out
    code, _, err = run("--output", tmp_path / "others.csv")
    assert code == cli.USAGE and "--line-finder is for pages" in err and "--kind page" in err
    code, _, err = run("--output", tmp_path / "texts.csv", "--line-finder", folder, "--kind", "page")
    assert code == cli.USAGE and "--line-finder: " in err


def test_an_output_that_cannot_be_is_refused_before_anything_is_loaded(folder, tmp_path, capfd):
    for more, message in (([], "ends neither in .jsonl nor in .csv"), (["--format", "alto", "--kind", "line"], "line")):
        arguments = ["--input", folder, "--output", tmp_path / "x.txt", "--workspace", tmp_path / "w", *more]
        assert cli.main(["transcribe", *map(str, arguments)]) == cli.USAGE
        told = capfd.readouterr().err
        assert message in told and "Loading" not in told and not (tmp_path / "w").exists()


def test_the_file_of_errors_says_why_lines_have_no_text():
    refused = pages.Line(error=pages.LineError("refused", "The model's graph did not take the image."))
    found = remark("1.png", pages.Page("1.png", 90, 100, (refused, pages.Line())))
    detail = "1 of 2 lines have no text; 1 of 2 lines were not transcribed. The first: The model's graph did not take "
    assert found == {"path": "1.png", "reason": "lines_without_text", "detail": f"{detail}the image."}
    assert remark("1.png", pages.Page("1.png", 90, 100, (pages.Line("text"),))) is None
    found = remark("1.png", pages.Page("1.png", 90, 100, (pages.Line("text"),), lines_too_wide=1))
    assert found["reason"] == "lines_too_wide" and "--base line" in found["detail"]


def test_pages_in_a_bucket(transcribe, folder, models, tmp_path, s3):
    os.remove(os.path.join(os.fsencode(folder), b"caf\xe9.png"))  # names of objects are UTF-8
    bucket = s3.bucket()
    for source, name in ((str(folder), "in"), (models[0], "models/1"), (models[1], "lines/1")):
        storage.copy_tree(source, f"{bucket}/{name}")
    transcriber = Transcriber(f"{bucket}/models/1", "page", f"{bucket}/lines/1")

    def run():
        return batch.transcribe(f"{bucket}/in", f"{bucket}/out", transcriber, LOCAL, format_="json", images_per_shard=2)

    transcribe("out", format_="json")
    outcome = run()
    assert (outcome.new, outcome.errors, outcome.lines) == (5, 1, 6)
    there = {
        file.path.removeprefix(f"{bucket}/out/"): storage.read(file.path) for file in storage.files(f"{bucket}/out")
    }
    assert there == files(tmp_path / "out") and len(there) == 4
    assert run().new == 0
    storage.remove(f"{bucket}/out/b/1.json")
    assert run().new == 1
    storage.write(f"{bucket}/out/b/1.json", CORRECTED)
    for name in ("1.png", "b/1.png"):
        storage.write(f"{bucket}/in/{name}", bars(200))
    storage.remove(f"{bucket}/in/word.png")
    outcome = run()
    assert (outcome.new, outcome.kept, outcome.deleted) == (2, 1, 1)
    assert storage.read(f"{bucket}/out/b/1.json") == CORRECTED
    assert len(json.loads(storage.read(f"{bucket}/out/1.json"))["lines"]) == 1


def test_a_file_of_each_page_needs_pages():
    with pytest.raises(ValueError, match=r"bulk\.kind=page"):
        BulkConfig(format="alto")
    assert {*get_args(BulkConfig.model_fields["format"].annotation)} == {"jsonl", *PAGE_FORMATS}
    assert (BulkConfig(format="csv").output, BulkConfig(format="alto", kind="auto").output) == ("texts.csv", "pages")


def test_the_step_writes_files_of_pages(folder, models, tmp_path):
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts

    from components.batch_transcriber.component import COUNTS_FILE, Executor, Transcriptions

    model, blessing, output = standard_artifacts.Model(), standard_artifacts.ModelBlessing(), Transcriptions()
    (folder / "large.png").write_bytes(encode(np.full((701, 900), 250, np.uint8)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "Format-Serving").symlink_to(models[0])
    model.uri, output.uri = str(tmp_path / "model"), str(tmp_path / "out")
    blessing.set_int_custom_property("blessed", 1)
    config = BulkConfig(folder=str(folder), kind="auto", format="page", line_finder=os.path.dirname(models[1]))
    context = BaseBeamExecutor.Context(beam_pipeline_args=LOCAL, tmp_dir=str(tmp_path), unique_id="1")
    inputs = {"model": [model], "model_blessing": [blessing]}
    properties = {"config": config.model_dump_json(), "max_pixels": 900 * 700}
    Executor(context).Do(inputs, {"transcriptions": [output]}, properties)
    assert len(pages.read((tmp_path / "out" / "pages" / "b" / "1.xml").read_bytes()).lines) == 2
    counts = json.loads((tmp_path / "out" / COUNTS_FILE).read_text())
    assert (counts["images"], counts["errors"], counts["pages"], counts["lines"]) == (7, 2, 5, 9)
    assert (tmp_path / "out" / "pages-errors.csv").exists() and counts["incomplete"] == {"no_lines": 1}
    assert isinstance(counts["suspicions"], dict)


def test_suspect_images_are_told_with_the_remedy():
    assert suspects.told({}, "--kind auto") == []
    assert suspects.told({"page_like": 11, "blank": 1}, "bulk.kind=auto") == [
        "Suspect images, whose texts may be nonsense: 1 blank, 11 page_like",
        "Transcribed as one line, but of the shape of a page: 11 images. If so: bulk.kind=auto",
    ]
