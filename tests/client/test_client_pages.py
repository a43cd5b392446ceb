"""Pages through a client and its commands: the lines are found on the server, and every image becomes what it is."""

import asyncio
import csv
import io
import json
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import grpc
import numpy as np
import pytest

from htr_client import AsyncHtrClient, HtrClient, image_files, kinds, pages
from htr_client.errors import ImageError, ModelNotFound, ServerUnavailable, TimedOut
from htr_client.files import LINE_FORMATS, PAGE_FORMATS
from htr_client.output import ResultWriter, files_of
from htr_client.pages.reading import is_page, may_be_page
from htr_client.results import Timings, Transcription
from htr_client.suspicion import of_geometry
from htr_client.testing import find_bars, png

BOTTOMS = (150, 250, 350)


def drawn(bottoms=BOTTOMS, height=700, thickness=30):
    """A page of dark bars, as PNG."""
    grey = np.full((height, 900), 240, np.uint8)
    for bottom in bottoms:
        grey[bottom - thickness : bottom, 100:500] = 30
    return cv2.imencode(".png", grey)[1].tobytes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "1-page.png").write_bytes(drawn())
    (tmp_path / "2-word.png").write_bytes(png("word"))
    (tmp_path / "3-line.png").write_bytes(drawn([240], 250, 200))  # as high as its image: no page
    (tmp_path / "4-none.png").write_bytes(drawn()[:-40])
    (tmp_path / "5-page.png").write_bytes(drawn([200]))
    return tmp_path


def test_a_page_through_either_client(client):
    page = client.transcribe_page(drawn(), source="p.png")
    assert (page.image, page.width, page.height) == ("p.png", 900, 700)
    assert [line.baseline[0][1] for line in page.lines] == pytest.approx(BOTTOMS, abs=4)
    assert all(line.text and 0 < line.confidence < 1 for line in page.lines)
    found = client.find_page(drawn(), source="p.png")
    assert [(line.baseline, line.text) for line in found.lines] == [(line.baseline, "") for line in page.lines]
    with pytest.raises(ImageError):
        client.transcribe_page(b"")
    with pytest.raises(ModelNotFound):
        client.transcribe_page(drawn(), line_finder="other")


@pytest.mark.either_stack
def test_the_timeout_of_a_page_is_that_of_its_lines_too(kind, server):
    server.model.delay = 3.0  # of the recogniser, not of the line finder
    with kind(server.address, patience=0.0) as client:
        with pytest.raises(TimedOut):
            client.transcribe_page(drawn(), timeout=1.0)
        with pytest.raises(TimedOut):
            list(client.transcribe_many([png("a")], timeout=1.0))
        assert [line.text != "" for line in client.transcribe_page(drawn()).lines] == [True] * 3


@pytest.mark.either_stack
def test_a_restart_while_lines_are_found_is_waited_for(kind, server):
    with kind(server.address, patience=60.0, timeout=10.0) as client:
        assert len(client.find_page(drawn()).lines) == 3
        server.stop(0)
        later = threading.Timer(5.0, server.start)  # longer than gRPC's own attempts of one call
        later.start()
        assert [line.text != "" for line in client.transcribe_page(drawn()).lines] == [True] * 3
        later.join()
    with kind(server.address, patience=0.0) as client:
        server.model.failures = [(grpc.StatusCode.UNAVAILABLE, "starting")] * 6
        with pytest.raises(ServerUnavailable):
            client.find_page(drawn())


def test_a_page_whose_batch_another_image_has_spoiled_is_sent_once_more(client, server):
    spoiled = (grpc.StatusCode.INVALID_ARGUMENT, "Invalid PNG data, size 200")
    server.model.failures = [spoiled]
    assert len(client.find_page(drawn()).lines) == 3
    server.model.failures = [spoiled] * 2
    with pytest.raises(ImageError, match="Invalid PNG data"):
        client.find_page(drawn())
    assert not server.model.failures


def test_more_pages_at_a_time_than_the_event_loop_has_threads(server):
    async def read():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with AsyncHtrClient(server.address) as client:
            return await asyncio.wait_for(asyncio.gather(*(client.transcribe_page(drawn()) for _ in range(3))), 30)

    assert [len(page.lines) for page in asyncio.run(read())] == [3, 3, 3]


def test_images_of_all_kinds_in_order(call, folder):
    code, out, err = call(folder, "--kind", "auto")
    names = [line.split("\t")[0].removeprefix(f"{folder}/") for line in out.splitlines()]
    assert names == ["1-page.png:1", "1-page.png:2", "1-page.png:3", "2-word.png", "3-line.png", "5-page.png:1"]
    assert "warning" not in err, "the line finder says what the shape cannot tell"
    assert out.splitlines()[3].split("\t")[1] == "word"
    assert code == 1 and "4-none.png: The PNG ends early" in err and err.count("error: ") == 1


def test_what_has_the_shape_of_a_page_and_no_line_is_suspect(server):
    images = [drawn([]), drawn([280], 300, 250), drawn([880], 900, 850)]  # the second is too low for a page
    with HtrClient(server.address) as client:
        empty, word, huge = kinds.transcribe(client, images, "auto")
    codes = [[suspicion.code for suspicion in result.suspicions] for result in (empty, word, huge)]
    assert codes == [["blank", "no_lines"], [], []], "what one line fills is none"
    assert empty.text == "" and word.text and huge.text


@pytest.mark.parametrize("kind", ["auto", "page"])
def test_a_page_that_the_line_finder_refuses_is_no_line(call, folder, server, kind):
    server.model.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "Invalid PNG data, size 200")] * 2
    code, out, err = call(folder / "1-page.png", "--kind", kind)
    assert (code, out) == (1, "") and "1-page.png: The server says INVALID_ARGUMENT: Invalid PNG data" in err


@pytest.mark.either_stack
@pytest.mark.parametrize("kind", ["line", "auto", "page"])
def test_the_bound_of_the_client_is_that_of_pages_too(server, kind):
    large = drawn(height=800)
    with HtrClient(server.address, max_pixels=900 * 700) as client:
        few, many = kinds.transcribe(client, [drawn(), large], kind)
        assert getattr(few, "error", None) is None and many.error.reason == "too_large"
    with HtrClient(server.address, max_pixels=10**9) as client:
        [result] = kinds.transcribe(client, [drawn(height=60_000)], kind)
        assert getattr(result, "error", None) is None


def test_a_file_is_read_once_whatever_it_shows(server, folder, monkeypatch):
    opened = []
    read_file = image_files.read_file
    monkeypatch.setattr(image_files, "read_file", lambda file: opened.append(file.name) or read_file(file))
    files = [str(path) for path in sorted(folder.iterdir())]
    with HtrClient(server.address) as client:
        page, word, line, damaged, _ = kinds.transcribe(client, files, "auto")
    assert opened == files and page.image == "1-page.png"
    assert [one.source for one in (word, line, damaged)] == files[1:4]


def test_what_an_image_shows_counts_more_than_what_the_model_reads(client):
    grain = np.random.default_rng(0).integers(216, 224, (64, 600)).astype(np.uint8)
    thin, turned = np.full((100, 1000), 255, np.uint8), np.full((64, 400), 255, np.uint8)
    thin[30:70, 500:502] = turned[5:15] = 0
    images = [grain, np.full((4, 4), 225, np.uint8), thin, turned, drawn(BOTTOMS, 1200), png("line")]
    found = list(client.transcribe_many(images))
    codes = [[suspicion.code for suspicion in result.suspicions] for result in found]
    assert codes == [["blank"], ["blank"], ["blank"], ["no_text"], ["page_like"], []]
    # Of these the model is as sure as of any image.
    assert [(result.text, result.confidence, result.characters) for result in found[:2]] == [("", 0.0, ())] * 2
    assert found[2].text and found[2].confidence > 0, "a stroke is little of a wide image"
    assert (found[3].text, found[5].text) == ("", "line") and found[3].confidence > 0.0


def test_by_default_the_client_takes_every_image_for_a_line(call, folder, server):
    code, out, err = call(folder / "1-page.png")
    assert "1-page.png: It has the shape of a page, and was transcribed as one line." in err
    assert code == 0 and len(out.splitlines()) == 1 and len(server.model.seen) == 1


def test_a_server_without_line_finder(call, folder, server):
    server.model.has_line_finder = False
    code, out, err = call(folder / "1-page.png", folder / "2-word.png", "--kind", "auto")
    assert code == 0 and len(out.splitlines()) == 2
    assert "1-page.png: It may be a page, and there is no line finder (htr-lines)" in err and "2-word" not in err
    _, out, _ = call(folder / "1-page.png", "--kind", "auto", "--format", "json")
    assert [one["code"] for one in json.loads(out)["suspicions"]] == ["no_line_finder"]
    code, out, err = call(folder / "1-page.png", "--kind", "page")
    assert code == 1 and out == "" and "htr-lines" in err and "htr serve --pages" in err and "model_status" not in err
    code, _, err = call(folder / "2-word.png", "--model", "other")
    assert code == 1 and "model_status" in err and "--pages" not in err


@pytest.mark.parametrize("form", pages.FORMATS)
def test_lines_that_the_server_refuses_are_errors(call, folder, server, form):
    server.model.poison = b"IHDR"  # in every PNG
    code, out, err = call(folder / "1-page.png", "--kind", "page", "--format", form)
    assert code == 1 and "error: " in err and "1-page.png: 3 of 3 lines were not transcribed. The first: " in err
    assert "Invalid PNG data" in err and "warning" not in err
    if form == "json":
        page = json.loads(out)
        assert page["error"]["reason"] == "refused" and "3 of 3 lines" in page["error"]["message"]
        assert [line["error"]["reason"] for line in page["lines"]] == ["refused"] * 3
    if form == "csv":
        assert [row["error"] for row in csv.DictReader(io.StringIO(out))] == ["refused"] * 3


def test_lines_in_which_nothing_is_seen_are_no_errors():
    empty, refused = pages.Line(), pages.Line(error=pages.LineError("refused", "No."))
    page = pages.Page("", 90, 100, (empty, pages.Line("a"), refused))
    assert str(kinds.failure(page)) == "1 of 3 lines were not transcribed. The first: No."
    assert kinds.suspicions(page) == (("lines_without_text", "1 of 3 lines have no text"),)
    assert kinds.failure(pages.Page("", 90, 100, (empty,))) is None


def test_a_page_tells_that_its_lines_are_too_wide_for_the_model():
    """A model for single words has an image tensor of fixed width: it sees whole lines a few pixels high."""

    def recognise(cut):
        for image in cut:
            wide = of_geometry(image.shape[1], image.shape[0], frames=32)
            yield Transcription("text", 0.9, (), (), "htr", 1, None, Timings(0, 0, 0), None, wide)

    grey = np.full((700, 2000), 240, np.uint8)
    for right, bottom in ((1900, 150), (1900, 250), (200, 350)):
        grey[bottom - 30 : bottom, 100:right] = 30
    page = pages.read_page(grey, find_bars, recognise)
    assert [suspicion.code for suspicion in kinds.suspicions(page)] == ["lines_too_wide"]
    assert kinds.suspicions(page)[0].message.startswith("2 of 3 lines are too wide for this model")
    assert pages.from_json(pages.write(page, "json")) == page


@pytest.mark.parametrize(("pitch", "codes"), [(12, ["lines_too_low"]), (40, [])])
def test_a_page_tells_that_its_writing_is_a_few_pixels_high(pitch, codes):
    lines = [pages.Line("text", ((10, y), (90, y))) for y in range(20, 20 + 5 * pitch, pitch)]
    found = kinds.suspicions(pages.Page("", 100, 300, tuple(lines)))
    assert [suspicion.code for suspicion in found] == codes
    assert all("12 pixels apart" in suspicion.message for suspicion in found)


def test_a_line_of_text_is_one_line_whatever_the_name_of_the_file(call, tmp_path):
    for number, name in enumerate(("a\nb\t.png", "page\r.png")):
        (tmp_path / name).write_bytes(drawn() if number else png("alpha"))
    code, out, err = call(tmp_path, "--kind", "auto")
    assert code == 0 and [line.count("\t") for line in out.split("\n")[:-1]] == [2, 2, 2, 2]
    assert "\\nb\\t.png\talpha\t" in out and "/page\\r.png:3\t" in out and "\r" not in out + err


def test_objects_of_pages_and_lines_share_their_keys(call, folder):
    _, out, _ = call(folder, "--kind", "auto", "--format", "json")
    page, word, _, damaged, _ = map(json.loads, out.splitlines())
    common = {"file", "text", "model", "model_version", "suspicions", "error"}
    assert common <= page.keys() & word.keys() and word.keys() == damaged.keys()
    assert (page["model"], page["model_version"], page["error"], page["suspicions"]) == ("htr", 1, None, [])
    assert page["text"] == "\n".join(line["text"] for line in page["lines"])
    for line in page["lines"]:
        for one in (line, *line["words"]):
            assert one["confidence"] == float(f"{one['confidence']:.6g}")
    _, out, _ = call(folder, "--kind", "auto", "--format", "csv")
    assert {row["model_version"] for row in csv.DictReader(io.StringIO(out)) if not row["error"]} == {"1"}


@pytest.mark.parametrize("kind", ["line", "page"])
def test_tables_and_objects_tell_small_confidences_apart(kind):
    """That of a line is often 1e-6, and reports name thresholds such as 0.00000592."""
    for confidence in (5.81432e-06, 5.01e-06, 3.9e-10, 0.998877):
        line = pages.Line("a line", ((0, 5), (9, 5)), confidence=confidence)
        result = {
            "line": Transcription("a line", confidence, (), (), "htr", 1, "a.png", Timings(0.0, 0.0, 0.0)),
            "page": pages.Page("a.png", 9, 9, (line,)),
        }[kind]
        table, record = io.StringIO(), io.StringIO()
        ResultWriter("csv", table)("a.png", result)
        ResultWriter("json", record)("a.png", result)
        [row], told = csv.DictReader(table.getvalue().splitlines()), json.loads(record.getvalue())
        assert float(row["confidence"]) == (told["lines"][0] if kind == "page" else told)["confidence"] == confidence
    [row] = csv.DictReader(
        pages.write(pages.Page("a.png", 9, 9, (replace(line, confidence=1e-6),)), "csv").splitlines()
    )
    assert float(row["confidence"]) == 1e-6


def test_rows_and_objects(call, folder):
    _, out, _ = call(folder / "1-page.png", folder / "2-word.png", "--kind", "auto", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["file"].rpartition("/")[2] for row in rows] == [*(f"1-page.png:{n}" for n in (1, 2, 3)), "2-word.png"]
    _, out, _ = call(folder / "1-page.png", folder / "2-word.png", "--kind", "auto", "--format", "json")
    page, word = map(json.loads, out.splitlines())
    assert [len(page["lines"]), page["width"], page["file"]] == [3, 900, str(folder / "1-page.png")]
    assert word["text"] == "word"


@pytest.mark.parametrize("form", ["alto", "page"])
def test_documents(call, folder, tmp_path, form):
    code, out, _ = call(folder / "1-page.png", "--format", form)
    page = pages.read(out.encode())
    assert code == 0 and page.image == "1-page.png" and len(page.lines) == 3
    code, _, err = call(folder / "1-page.png", folder / "5-page.png", "--format", form)
    assert code == 2 and "--output" in err
    made = tmp_path / "made"
    (folder / "below").mkdir()
    (folder / "below" / "1-page.jpg").write_bytes(drawn([200]))
    given = [folder / "1-page.png", folder / "below", folder / "5-page.png"]
    code, out, _ = call(*given, "--format", form, "--output", made)
    assert (code, out) == (0, "")
    found = {path.name: pages.read(path.read_bytes()) for path in sorted(made.iterdir())}
    assert {name: len(page.lines) for name, page in found.items()} == {
        "1-page.xml": 3, "1-page-2.xml": 1, "5-page.xml": 1,
    }  # fmt: skip


def test_tables_and_objects_of_pages_in_a_folder(call, folder, tmp_path):
    for form in ("csv", "json"):
        told = call(folder / "1-page.png", "--kind", "page", "--format", form, "--output", tmp_path / "made")
        assert told[:2] == (0, ""), "a table without rows"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "made" / "1-page.csv").read_text())))
    page = pages.from_json((tmp_path / "made" / "1-page.json").read_text())
    assert [(int(row["line"]), row["text"]) for row in rows] == [(n, line.text) for n, line in enumerate(page.lines, 1)]
    assert len(rows) == 3 and page.image == "1-page.png"
    given = (folder / "1-page.png", folder / "2-word.png", "--kind", "auto", "--format", "csv")
    _, out, _ = call(*given, "--output", tmp_path / "made", "--overwrite")
    assert [row["text"] for row in csv.DictReader(io.StringIO(out))] == ["word"]


def test_a_format_of_documents_needs_a_writer_and_an_ending_only(monkeypatch):
    assert [*pages.FORMATS] == [*PAGE_FORMATS] and {*LINE_FORMATS} < {*PAGE_FORMATS}
    monkeypatch.setitem(pages.FORMATS, "tei", lambda page: f"<TEI>{page.text}</TEI>")
    monkeypatch.setitem(PAGE_FORMATS, "tei", ".tei")
    out = io.StringIO()
    ResultWriter("tei", out)("scan.png", pages.Page("scan.png", 9, 9, (pages.Line("one", ((0, 5), (9, 5))),)))
    assert (out.getvalue(), files_of(["scan.png"], "made", "tei")) == ("<TEI>one</TEI>", ["made/scan.tei"])


@pytest.mark.parametrize("form", pages.FORMATS)
def test_a_page_whose_file_name_is_no_utf8_is_written_with_escapes(call, tmp_path, form):
    (tmp_path / "scans").mkdir()
    with open(os.path.join(os.fsencode(tmp_path / "scans"), b"m\xfcller.png"), "wb") as file:
        file.write(drawn())
    printed = call(tmp_path / "scans", "--kind", "page", "--format", form)
    assert (printed[0], printed[2]) == (0, "") and r"m\udcfcller.png" in printed[1].replace("\\\\", "\\")
    code, _, err = call(tmp_path / "scans", "--kind", "page", "--format", form, "--output", tmp_path / "made")
    assert (code, err) == (0, "")
    (made,) = (tmp_path / "made").iterdir()
    assert made.stem == r"m\udcfcller" and made.stat().st_size > 0
    if form in ("alto", "page"):
        assert pages.read(made.read_bytes()).image == r"m\udcfcller.png"


def test_files_that_are_there_are_replaced_only_if_told(call, folder, tmp_path, server):
    """They may be ground truth."""
    truth = tmp_path / "truth"
    truth.mkdir()
    (truth / "5-page.xml").write_text("corrected by hand")
    given = (folder / "1-page.png", folder / "5-page.png", "--format", "page", "--output", truth)
    code, out, err = call(*given)
    assert (code, out) == (2, "") and "5-page.xml exists already" in err and "--overwrite" in err
    assert not server.model.seen and [path.name for path in truth.iterdir()] == ["5-page.xml"]
    code, out, err = call(*given, "--overwrite")
    assert (code, out, err) == (0, "", "")
    assert len(pages.read((truth / "5-page.xml").read_bytes()).lines) == 1
    code, _, err = call(*given)
    assert code == 2 and "1-page.xml and 1 more exist already" in err
    code, _, err = call(folder / "1-page.png", "--overwrite")
    assert code == 2 and "--overwrite goes with --output" in err


def test_a_file_that_has_come_since_stays_and_long_names_have_room(tmp_path):
    page = pages.Page("scan.png", 9, 9, (pages.Line("one", ((0, 5), (9, 5))),))
    file = tmp_path / f"{'я' * 125}.xml"  # 254 bytes, of 255
    for overwrite in (False, True):
        ResultWriter("alto", io.StringIO(), [str(file)], overwrite=overwrite)("scan.png", page)
    with pytest.raises(FileExistsError, match=r"File exists: '.*яя\.xml'"):
        ResultWriter("text", io.StringIO(), [str(file)])("scan.png", page)
    assert [path.name for path in tmp_path.iterdir()] == [file.name] and b"<alto" in file.read_bytes()


@pytest.mark.parametrize("before", [None, "whole"])
def test_a_file_is_whole_or_not_there(call, folder, tmp_path, before):
    """After a full disk the same command can go on, and who takes the folder meanwhile has no half of a document."""
    made, given = tmp_path / "made", (folder / "1-page.png", "--format", "alto", "--output", tmp_path / "made")
    given = given if before is None else (*given, "--overwrite")
    if before is not None:
        made.mkdir()
        (made / "1-page.xml").write_text(before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        code, _, err = call(*given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, err) == (1, f"error: {made / '1-page.xml'}: File too large\n")
    assert {path.name: path.read_text() for path in made.iterdir()} == ({"1-page.xml": before} if before else {})
    assert call(*given)[0] == 0 and [path.name for path in made.iterdir()] == ["1-page.xml"]
    assert len(pages.read((made / "1-page.xml").read_bytes()).lines) == 3


def test_an_output_without_pages_is_refused_or_told(call, folder, tmp_path):
    made = tmp_path / "made"
    code, out, err = call(folder / "2-word.png", "--output", made)
    assert (code, out) == (2, "") and "--kind page or auto" in err and not made.exists()
    code, out, err = call(folder / "2-word.png", "--kind", "auto", "--output", made)
    assert code == 0 and "\tword\t" in out and not made.exists()
    assert f"note: nothing was written to {made}: no image was transcribed as a page." in err


def test_names_that_differ_in_case_only_become_two_files(call, folder, tmp_path):
    for name in ("a.png", "A.PNG"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / name).write_bytes(drawn())
    code, _, _ = call(tmp_path / "scans", "--format", "page", "--output", tmp_path / "made")
    assert code == 0 and sorted(path.name.lower() for path in (tmp_path / "made").iterdir()) == ["a-2.xml", "a.xml"]


def test_an_output_that_cannot_be_written_is_one_sentence(call, folder):
    code, _, err = call(folder / "1-page.png", "--format", "alto", "--output", folder / "2-word.png")
    assert code == 1 and err.startswith("error: ") and "2-word.png" in err and "Traceback" not in err


def test_an_empty_page_is_told(call, tmp_path):
    (tmp_path / "empty.png").write_bytes(drawn([]))
    code, out, err = call(tmp_path / "empty.png", "--kind", "page")
    assert (code, out) == (0, f"{tmp_path / 'empty.png'}\t\t0.000\n") and "no line of text was found" in err
    _, out, _ = call(tmp_path / "empty.png", "--kind", "page", "--format", "csv")
    [row] = csv.reader(io.StringIO(out.partition("\n")[2]))
    assert row == [str(tmp_path / "empty.png"), "", "0.0", "0", "", "no_lines"]


def test_what_could_be_a_page():
    assert may_be_page(900, 700) and may_be_page(600, 2000) and may_be_page(1200, 400)
    assert not may_be_page(128, 32) and not may_be_page(2000, 300) and not may_be_page(150, 150)
    body = pages.Line(polygon=((0, 40), (90, 40), (90, 60), (0, 60)))
    assert is_page(pages.Page("", 90, 100, (body,))) and not is_page(pages.Page("", 90, 48, (body,)))
    assert not is_page(pages.Page("", 90, 100)) and is_page(pages.Page("", 90, 48, (body, body)))
