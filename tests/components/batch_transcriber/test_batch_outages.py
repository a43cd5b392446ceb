"""Batches on disks that fail: what has been transcribed once is not lost with what cannot be opened now."""

import csv
import json
import os

import pytest

from components.batch_transcriber import batch
from components.batch_transcriber.documents import OwnFiles
from components.batch_transcriber.output import BatchError
from components.batch_transcriber.transcribing import Transcriber
from pipeline import cli
from tests.components.toy_reader import bars
from tests.conftest import failing_disk

LOCAL = ["--runner=FnApiRunner"]


@pytest.fixture
def folder(tmp_path):
    """Pages, of which one has no line and one is cut off."""
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    for name, bottoms in (("1.png", (150, 250, 350)), ("b/1.png", (200, 300)), ("b/empty.png", ()), ("2.png", (200,))):
        (folder / name).write_bytes(bars(*bottoms))
    (folder / "cut.png").write_bytes((folder / "2.png").read_bytes()[:-30])
    return folder


@pytest.fixture
def transcribe(folder, models, tmp_path):
    """Transcribes the folder into an output below the test's folder; a shard holds about two images."""

    def run(output, **settings):
        transcriber = Transcriber(models[0], "page", models[1])
        return batch.transcribe(str(folder), str(tmp_path / output), transcriber, LOCAL, images_per_shard=2, **settings)

    return run


@pytest.fixture
def command(folder, models, tmp_path, capfd):
    """Runs htr transcribe on the folder; gives what it says, and on standard error."""

    def run(output, *more, code=0):
        arguments = ["transcribe", "--input", folder, "--output", tmp_path / output, "--workspace", tmp_path / "w"]
        arguments += ["--model", models[0], "--line-finder", models[1], "--kind", "page", "--shard-size", 2, *more]
        assert cli.main([str(argument) for argument in arguments]) == code
        told = capfd.readouterr()
        return told.err if code else told.out

    return run


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def results(folder, output):
    """The documents of an output, or the files of its table."""
    return {name: data for name, data in files(folder).items() if name.startswith((f"{output}/", "texts-0"))}


def errors(folder, output):
    path = folder / (f"{output}-errors.csv" if output == "out" else "texts-errors.jsonl")
    with open(path, encoding="utf-8", newline="") as file:
        table = csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
        return {(row["path"], row["reason"]) for row in table}


OUTPUTS = pytest.mark.parametrize(
    ("output", "more"), [("out", ("--format", "page")), ("texts.jsonl", ())], ids=["documents", "table"]
)


@OUTPUTS
def test_images_that_are_away_for_a_while_keep_their_results(command, folder, tmp_path, output, more):
    """Links into an archive whose disk is not there."""
    linked = ("1.png", "b/1.png", "b/empty.png")
    (tmp_path / "archive").mkdir()
    for name in linked:
        stored = tmp_path / "archive" / name.replace("/", "-")
        (folder / name).rename(stored)
        (folder / name).symlink_to(stored)
    command(output, *more)
    before, usual = results(tmp_path, output), errors(tmp_path, output)
    (tmp_path / "archive").rename(tmp_path / "away")
    told = command(output, *more)
    assert "\nCannot be read now: 3 images whose earlier texts stay, see " in told and "Deleted" not in told
    assert results(tmp_path, output) == before
    assert errors(tmp_path, output) == usual | {(name, "unreadable") for name in linked}
    (tmp_path / "away").rename(tmp_path / "archive")
    told = command(output, *more)
    assert "\nDone by an earlier run: 5 images\n" in told and "Cannot be read now" not in told
    assert results(tmp_path, output) == before and errors(tmp_path, output) == usual
    (tmp_path / "archive" / "b-1.png").write_bytes(b"no image")
    told = command(output, *more)
    assert "2 could not be read" in told and "Cannot be read now" not in told
    assert results(tmp_path, output) != before


def test_a_linked_folder_that_is_away_deletes_nothing(command, folder, tmp_path):
    (folder / "b").rename(tmp_path / "archive")
    (folder / "b").symlink_to(tmp_path / "archive")
    command("out", "--format", "page")
    before = results(tmp_path, "out")
    (tmp_path / "archive").rename(tmp_path / "away")
    assert f"The link {folder / 'b'} leads nowhere" in command("out", "--format", "page", code=1)
    assert results(tmp_path, "out") == before


def test_an_outage_of_the_disk_ends_the_batch_and_deletes_nothing(transcribe, folder, tmp_path):
    transcribe("out", format_="page")
    before = files(tmp_path / "out")
    os.utime(folder / "1.png", (1, 1))
    with failing_disk("/1.png"), pytest.raises((OSError, RuntimeError), match="Stale file handle"):
        transcribe("out", format_="page")
    assert files(tmp_path / "out") == before
    assert transcribe("out", format_="page").new == 1 and set(files(tmp_path / "out")) == set(before)


@OUTPUTS
def test_what_a_power_cut_has_emptied_is_done_again(command, transcribe, folder, tmp_path, output, more):
    command(output, *more)
    before, usual = results(tmp_path, output), errors(tmp_path, output)
    form = more[1] if more else None
    records = sorted((tmp_path / f"{output}.state").glob("[0-9]*.json"))
    one = json.loads(records[0].read_text())
    records[0].write_bytes(b"")
    assert transcribe(output, format_=form).new == len(one["stamps"])
    assert set(results(tmp_path, output)) == set(before) and errors(tmp_path, output) == usual
    emptied = next(name for name in before if name.startswith(("out/b/1", "texts-")))
    (tmp_path / emptied).write_bytes(b"")
    assert transcribe(output, format_=form).new >= 1
    assert results(tmp_path, output)[emptied]

    manifest = tmp_path / f"{output}.state" / "manifest.json"
    manifest.write_bytes(b"")
    with pytest.raises(BatchError, match=rf"{manifest} is damaged, .* begin this one again with --overwrite"):
        transcribe(output, format_=form)
    assert results(tmp_path, output)
    outcome = transcribe(output, format_=form, overwrite=True)
    assert (outcome.new, outcome.kept) == (5, 0) and set(results(tmp_path, output)) == set(before)


def test_an_empty_text_of_a_page_without_lines_is_done_once(transcribe, tmp_path):
    transcribe("out", format_="text")
    assert (tmp_path / "out" / "b" / "empty.txt").read_bytes() == b""
    assert transcribe("out", format_="text").new == 0
    (tmp_path / "out" / "2.txt").write_bytes(b"")
    (tmp_path / "in" / "2.png").unlink()
    outcome = transcribe("out", format_="text")
    assert (outcome.new, outcome.kept) == (0, 0)


def test_a_document_whose_replacement_was_killed_is_still_the_batchs_own(tmp_path):
    """Its notes are written first."""

    def write(path, data):
        if data == b"two" and not killed:
            killed.append(path)
            raise KeyboardInterrupt
        with open(path, "wb") as file:
            file.write(data)

    killed = []
    documents = [OwnFiles(str(tmp_path), str(tmp_path / "notes.json"), write)]
    assert documents[0].replace("1.txt", b"one")
    with pytest.raises(KeyboardInterrupt):
        documents[0].replace("1.txt", b"two")
    assert OwnFiles(str(tmp_path), str(tmp_path / "notes.json"), write).replace("1.txt", b"two")


def test_notes_of_documents_that_a_power_cut_has_emptied_do_not_stop_a_batch(transcribe, tmp_path):
    """Nothing tells any more which documents are corrected: what would be written otherwise stays."""
    transcribe("out", format_="text")
    (tmp_path / "out" / "1.txt").write_text("corrected")
    before = files(tmp_path / "out")
    for notes in (tmp_path / "out.state").glob("*.json"):
        if notes.name != "manifest.json":
            notes.write_bytes(b"")
    outcome = transcribe("out", format_="text")
    assert (outcome.new, outcome.kept) == (5, 1) and files(tmp_path / "out") == before
