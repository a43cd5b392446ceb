"""Batch transcription: the same texts on every engine, restarts that repeat nothing, errors apart."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.batch_transcriber import batch
from components.batch_transcriber.listing import Listing, NoImages, list_images
from components.batch_transcriber.output import BatchError
from components.batch_transcriber.shards import Record, plan, written
from components.batch_transcriber.transcribing import Transcriber
from components.common import storage
from components.example_gen.folders import find_tables
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError
from htr_client import ngrams
from htr_client.decoding import Alphabet
from htr_client.language import LanguageModel
from pipeline import cli
from tests.components.toy_reader import ALPHABET, save
from tests.conftest import drawn_image, encode, until

LOCAL = ["--runner=FnApiRunner"]
TWO_WORKERS = [*LOCAL, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
IMAGES = 60


def transcribe(folder, output, model, beam_args, *, batch_size=64, decoder="default", kind="line", finder=None, **rest):
    return batch.transcribe(folder, output, Transcriber(model, kind, finder, batch_size, decoder), beam_args, **rest)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "1")


@pytest.fixture
def folder(tmp_path):
    """Images in two folders, of which one is cut off, one is text and one has a name that is not UTF-8."""
    folder = tmp_path / "in [1]"
    for number in range(IMAGES):
        path = folder / ("a" if number % 2 else "b") / f"{number:03d}.{'png' if number % 3 else 'JPG'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(drawn_image(60 + number, 30, number), path.suffix.lower()))
    cut = folder / "a" / "001.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    (folder / "b" / "002.png").write_text("no image")
    (folder / "notes.txt").write_text("passed over")
    shutil.copyfile(folder / "b" / "004.png", os.path.join(os.fsencode(folder), b"caf\xe9.png"))
    return folder


def texts(output: Path) -> dict[str, dict]:
    """All results, with a check that no image is listed twice."""
    rows = []
    for path in sorted(output.parent.glob(f"{output.stem}-0*{output.suffix}")):
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows += csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file)
    assert len(rows) == len({row["path"] for row in rows})
    return {row["path"]: row for row in rows}


def contents(output: Path) -> dict[str, bytes]:
    return {path.name.replace(output.stem, ""): path.read_bytes() for path in output.parent.glob(f"{output.stem}-*")}


def test_every_image_is_in_the_results_or_in_the_errors(folder, model, tmp_path):
    outcome = transcribe(str(folder), str(tmp_path / "texts.jsonl"), model, LOCAL, images_per_shard=16, batch_size=8)
    assert (outcome.images, outcome.new, outcome.errors, outcome.shards) == (IMAGES + 1, IMAGES + 1, 2, 4)
    assert written(str(tmp_path / "texts.jsonl")) == "4 of 4 parts" and written(str(tmp_path / "other.jsonl")) == ""
    found = texts(tmp_path / "texts.jsonl")
    assert len(found) == IMAGES - 1
    for path, row in found.items():
        data = Path(folder, path).read_bytes()
        assert row["text"].split()[1] == str(tf.strings.to_hash_bucket_fast(data, 10**9).numpy()), path
    assert found["b/004.png"]["text"].split()[0] == "64" and found["b/004.png"]["confidence"] == pytest.approx(0.564)
    assert found["caf\udce9.png"]["text"] == found["b/004.png"]["text"]
    errors = [json.loads(line) for line in Path(outcome.errors_path).read_text().splitlines()]
    assert [(e["path"], e["reason"]) for e in errors] == [("a/001.png", "truncated"), ("b/002.png", "not_an_image")]


def test_the_language_model_of_the_version_is_used_unless_another_decoder_is_asked_for(folder, model, tmp_path):
    """This one only finds every character less probable, so that the doubtful last digit goes."""
    shorter = LanguageModel(ngrams.count(["0"], Alphabet(ALPHABET), 1), 0.0, -2.0).to_bytes()
    knowing = save(tmp_path / "2", language_model=shorter)
    found = {}
    for name, path, decoder in (
        ("plain", model, "default"), ("default", knowing, "default"), ("best path", knowing, "best_path"),
    ):  # fmt: skip
        output = tmp_path / name / "texts.jsonl"
        transcribe(str(folder), str(output), path, LOCAL, decoder=decoder)
        found[name] = {path: row["text"] for path, row in texts(output).items()}
    assert found["best path"] == found["plain"]
    assert found["default"] == {path: text[:-1] for path, text in found["plain"].items()}
    # What has begun with it does not go on without it.
    for begun, decoder in (("default", "best_path"), ("best path", "default")):
        with pytest.raises(BatchError, match=r"too, but another --decoder, --lm or --bfloat16\. Name another output"):
            transcribe(str(folder), str(tmp_path / begun / "texts.jsonl"), knowing, LOCAL, decoder=decoder)


@pytest.mark.parametrize("kind", ["line", "auto"])
def test_texts_of_the_same_kind_are_learnt_from(folder, model, tmp_path, kind):
    (tmp_path / "texts.txt").write_text("hot\ntoe\n" * 500)
    digits = LanguageModel(ngrams.count(["0 123456789"], Alphabet(ALPHABET), 1), 0.4, 1.4).to_bytes()
    knowing = save(tmp_path / "2", language_model=digits)

    def found(name, texts_file, model=model):
        output = tmp_path / name / "texts.jsonl"
        transcriber = Transcriber(model, kind, decoder="default", texts=texts_file and str(texts_file))
        batch.transcribe(str(folder), str(output), transcriber, LOCAL)
        return {path: row["text"] for path, row in texts(output).items()}

    plain, learnt = found("plain", None), found("learnt", tmp_path / "texts.txt")
    # A digit is improbable in such texts: of the last one, of which the model is unsure, nothing is left.
    assert learnt == {path: text[:-1] for path, text in plain.items()}
    # What the version knows stands beside them.
    assert found("both", tmp_path / "texts.txt", knowing) == plain
    with pytest.raises(BatchError, match=r"another (line finder, )?--decoder, --lm or --bfloat16"):
        (tmp_path / "texts.txt").write_text("other\n")
        found("learnt", tmp_path / "texts.txt")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        (b"\n \n", "holds no text"),
        (b"caf\xe9", "not UTF-8"),
        ("漢字".encode(), "no character"),
    ],
)
def test_texts_that_cannot_be_learnt_from_are_told_first(base_models, tmp_path, content, problem, capfd):
    if content is not None:
        (tmp_path / "texts.txt").write_bytes(content)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encode(drawn_image()))
    command = ["transcribe", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out.jsonl"), "--base", "line"]
    command += ["--workspace", str(tmp_path / "w")]
    assert cli.main([*command, "--lm", str(tmp_path / "texts.txt")]) == 2
    assert problem in capfd.readouterr().err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.timeout(120)
def test_a_pipe_among_the_images_is_not_waited_for(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encode(drawn_image()))
    os.mkfifo(tmp_path / "in" / "pipe.png")
    outcome = transcribe(str(tmp_path / "in"), str(tmp_path / "texts.jsonl"), model, LOCAL)
    assert outcome.errors == 1 and list(texts(tmp_path / "texts.jsonl")) == ["a.png"]


def test_links_in_circles_or_to_nowhere_lose_nothing_and_repeat_nothing(folder, model, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copyfile(folder / "b" / "004.png", elsewhere / "far.png")
    (folder / "circle").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (folder / "other").symlink_to(elsewhere)
    (folder / "nowhere.png").symlink_to(tmp_path / "gone.png")
    outcome = transcribe(str(folder), str(tmp_path / "texts.jsonl"), model, LOCAL)
    assert (outcome.images, outcome.errors) == (IMAGES + 3, 3)
    found = texts(tmp_path / "texts.jsonl")
    assert os.path.join("other", "far.png") in found and not any("circle" in path for path in found)
    assert "nowhere.png" in Path(outcome.errors_path).read_text()


def test_hidden_files_are_left_out_and_counted(folder, model, tmp_path, s3):
    """AppleDouble files of a Mac and hidden folders, here and in a bucket; htr read passes over the same."""
    before = list_images(str(folder)).images
    for name in ("._a.jpg", "a/._001.png", ".thumbnails/001.png", "__MACOSX/a/001.png", ".notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X")
    assert list_images(str(folder)) == Listing(before, 4, [])
    outcome = transcribe(str(folder), str(tmp_path / "texts.jsonl"), model, LOCAL)
    assert (outcome.images, outcome.errors, outcome.hidden) == (len(before), 2, 4)
    hidden = tmp_path / ".in"  # the folder that is named may be hidden itself
    os.rename(folder, hidden)
    assert list_images(str(hidden)).images == before
    os.remove(os.path.join(os.fsencode(hidden), b"caf\xe9.png"))  # names of objects are UTF-8
    storage.copy_tree(str(hidden), f"{(bucket := s3.bucket())}/in")
    there = list_images(f"{bucket}/in")
    assert (len(there.images), there.hidden) == (len(before) - 1, 4)
    for path in [path for path in hidden.rglob("*") if path.is_file() and not path.name.startswith(".")]:
        path.unlink()
    with pytest.raises(NoImages, match=r"Hidden files do not count, such as \._a\.jpg"):
        list_images(str(hidden))


def test_files_with_other_endings_are_counted_and_named(tmp_path, s3):
    """JPEGs are known by all of their endings, and what may be an image is not passed over without a word."""
    for name in ("1.jfif", "2.JPE", "3.j2k", "4.jpx", "5.jpf", "scan", "deeper/x.raw", "1.xml", "labels.csv", ".x.raw"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(encode(drawn_image(), ".jpg"))
    storage.copy_tree(str(tmp_path / "in"), f"{(bucket := s3.bucket())}/in")
    for folder in (str(tmp_path / "in"), f"{bucket}/in"):
        found = list_images(folder)
        assert [image.path for image in found.images] == ["1.jfif", "2.JPE", "3.j2k", "4.jpx", "5.jpf"]
        assert all(image.stamp for image in found.images)
        assert (found.hidden, found.others) == (0, ["deeper/x.raw", "scan"])
    for path in (tmp_path / "in").glob("[1-5].*"):
        path.unlink()
    with pytest.raises(NoImages, match=r"Other files do not count, such as deeper/x\.raw"):
        list_images(str(tmp_path / "in"))


def test_csv_holds_the_same(folder, model, tmp_path):
    transcribe(str(folder), str(tmp_path / "texts.jsonl"), model, LOCAL)
    outcome = transcribe(str(folder), str(tmp_path / "table.csv"), model, LOCAL)
    lines, table = texts(tmp_path / "texts.jsonl"), texts(tmp_path / "table.csv")
    written_table = next(path for path in tmp_path.glob("table*.csv") if "errors" not in path.name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_bytes(written_table.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(DatasetError, match="is a table of `htr transcribe`, not of labels"):  # a model's texts
        find_tables(DataConfig(paths=[str(tmp_path / "data")]))
    assert {path: (row["text"], str(row["confidence"])) for path, row in lines.items()} == {
        path: (row["text"], row["confidence"]) for path, row in table.items()
    }
    with open(outcome.errors_path, newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["truncated", "not_an_image"]


def test_suspicions_are_in_the_table_but_not_in_one_that_an_earlier_release_has_begun(model, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "texts.csv"
    folder.mkdir()
    suspects = {"empty": np.full((30, 90), 250, np.uint8), "page": drawn_image(300, 400)}
    for added in (suspects, {"line": drawn_image(90, 30)}, {}):
        for name, image in added.items():
            (folder / f"{name}.png").write_bytes(encode(image))
        outcome = transcribe(str(folder), str(output), model, LOCAL)
        assert (outcome.new, outcome.suspicions) == (len(added), {"blank": 1, "page_like": 1})
    found = texts(output)
    assert [found[f"{name}.png"]["suspicions"] for name in ("empty", "line", "page")] == ["blank", "", "page_like"]
    assert (found["empty.png"]["text"], float(found["empty.png"]["confidence"])) == ("", 0.0)
    assert found["line.png"]["text"].startswith("90 ")

    table, state = tmp_path / "texts-00000-of-00001.csv", tmp_path / "texts.csv.state"
    table.write_text(re.sub(r",[a-z_]*$", "", table.read_text(), flags=re.M))
    for path in (state / "manifest.json", state / "00000.json"):
        path.write_text(json.dumps({key: x for key, x in json.loads(path.read_text()).items() if key != "suspicions"}))
    (folder / "more.png").write_bytes(encode(np.full((30, 80), 250, np.uint8)))
    for new in (1, 0):
        outcome = transcribe(str(folder), str(output), model, LOCAL)
        assert (outcome.new, outcome.suspicions) == (new, {"blank": 1})
    found = texts(output)
    assert set(found["line.png"]) == {"path", "text", "confidence"} and found["more.png"]["text"] == ""
    assert transcribe(str(folder), str(output), model, LOCAL, overwrite=True).new == 4
    assert texts(output)["more.png"]["suspicions"] == "blank"


def test_a_carriage_return_in_a_file_name_does_not_end_a_row(folder, model, tmp_path):
    os.link(folder / "b" / "004.png", folder / "b" / "a\rb.png")
    (folder / "b" / "c\rd.png").write_text("no image")
    for expected in (IMAGES + 3, 0):
        outcome = transcribe(str(folder), str(tmp_path / "table.csv"), model, LOCAL)
        assert outcome.new == expected and "b/a\rb.png" in texts(tmp_path / "table.csv")
    with open(outcome.errors_path, newline="") as file:
        assert "b/c\rd.png" in [row["path"] for row in csv.DictReader(file)]


def test_second_run_does_only_what_is_new_or_changed(folder, model, tmp_path):
    output = tmp_path / "texts.csv"
    transcribe(str(folder), str(output), model, LOCAL, images_per_shard=16)
    before = contents(output)
    assert transcribe(str(folder), str(output), model, LOCAL, images_per_shard=5).new == 0
    assert contents(output) == before
    (folder / "a" / "new.png").write_bytes(encode(drawn_image(90, 30, 99)))
    (folder / "a" / "003.JPG").write_bytes(encode(drawn_image(77, 30, 98), ".jpg"))
    (folder / "b" / "002.png").write_bytes(encode(drawn_image(78, 30, 97)))
    (folder / "a" / "005.png").unlink()
    outcome = transcribe(str(folder), str(output), model, LOCAL)
    assert (outcome.images, outcome.new, outcome.errors, outcome.shards) == (IMAGES + 1, 3, 1, 4)
    found = texts(output)
    assert found["a/new.png"]["text"].startswith("90 ") and found["a/003.JPG"]["text"].startswith("77 ")
    assert found["b/002.png"]["text"].startswith("78 ") and "a/005.png" not in found
    fresh = tmp_path / "fresh.csv"
    transcribe(str(folder), str(fresh), model, LOCAL, images_per_shard=16)
    assert contents(fresh) == contents(output)


def test_images_that_were_too_large_are_tried_again_and_damaged_ones_are_not(folder, model, tmp_path):
    outcomes = [
        batch.transcribe(str(folder), str(tmp_path / "texts.csv"), Transcriber(model, max_pixels=limit), LOCAL)
        for limit in (100 * 30, 10**6, 10**6)
    ]
    assert [(outcome.new, outcome.errors) for outcome in outcomes] == [(IMAGES + 1, 2 + 19), (19, 2), (0, 2)]


def test_an_archive_that_has_outgrown_its_shards_is_told_of(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for images, told in ((1, False), (10, False), (11, True)):
        for number in range(images):
            (tmp_path / "in" / f"{number}.png").write_bytes(encode(drawn_image()))
        transcribe(str(tmp_path / "in"), str(tmp_path / "texts.jsonl"), model, LOCAL, images_per_shard=1)
        said = " ".join(capsys.readouterr().err.split())
        assert ("11 images in 1 part, as many as the first run has made" in said) is told
        assert ("--overwrite begins again with 11." in said) is told


def test_results_of_two_models_or_inputs_are_not_mixed(folder, model, tmp_path):
    output = tmp_path / "texts.jsonl"
    transcribe(str(folder), str(output), model, LOCAL, images_per_shard=16)
    other = save(tmp_path / "2", "other ")
    refused = rf"begun with the model {re.escape(model)}, and .*2 is another one\. "
    with pytest.raises(BatchError, match=rf"{refused}Go on with --model {re.escape(model)}, name another.*--overwrite"):
        transcribe(str(folder), str(output), other, LOCAL)
    with pytest.raises(BatchError, match="begun for the images in"):
        transcribe(str(folder / "a"), str(output), model, LOCAL)
    with pytest.raises(BatchError, match="too, but another --decoder, --lm or --bfloat16"):
        batch.transcribe(str(folder), str(output), Transcriber(model, bfloat16=True), LOCAL)
    copy = shutil.copytree(model, tmp_path / "3")
    assert transcribe(str(folder), str(output), str(copy), LOCAL).new == 0
    shutil.rmtree(copy)
    with pytest.raises(BatchError, match=r"begun with the model .*3, and .*2 is another one\. Name another output"):
        transcribe(str(folder), str(output), other, LOCAL)
    outcome = transcribe(str(folder), str(output), other, LOCAL, overwrite=True)
    assert (outcome.new, outcome.shards) == (IMAGES + 1, 1)
    assert all(row["text"].startswith("other ") for row in texts(output).values())


def test_what_cannot_start_says_why(folder, model, tmp_path):
    (tmp_path / "empty").mkdir()
    finder = tmp_path / "htr-lines" / "1"
    (finder / "assets.extra").mkdir(parents=True)
    (finder / "fingerprint.pb").write_bytes(b"graph")
    (finder / "assets.extra" / "htr.json").write_text('{"line_finder": {}}')
    for arguments, message in (
        ((str(tmp_path / "none"), "texts.csv", model), "none does not exist"),
        ((str(tmp_path / "empty"), "texts.csv", model), "no image"),
        ((str(folder), "texts.txt", model), r"ends neither in \.jsonl nor in \.csv"),
        ((str(folder), "texts.csv", str(folder)), "is no SavedModel"),
        ((str(folder), "texts.csv", str(finder)), "is a line finder, which does not transcribe"),
    ):
        with pytest.raises(BatchError, match=message):
            transcribe(*arguments, LOCAL)
    assert len(list_images(str(folder)).images) == IMAGES + 1


def test_another_run_on_the_same_output_is_refused(folder, model, tmp_path):
    output = tmp_path / "texts.jsonl"
    with contextlib.ExitStack() as alone:
        plan(str(folder), str(output), {"path": "m", "fingerprint": "f"}, 16, False, alone=alone)
        with pytest.raises(BatchError, match=r"Another htr transcribe works on .*texts"):
            transcribe(str(folder), str(output), model, LOCAL)
    # What a killed run has left goes.
    plan(str(folder), str(output), {"path": "m", "fingerprint": "f"}, 16, False, alone=contextlib.ExitStack())
    assert len(list(tmp_path.glob("texts.jsonl.state/images*"))) == 1


def test_a_run_in_a_bucket_keeps_its_list_of_images_when_another_begins(folder, tmp_path):
    output, model = f"memory://{uuid.uuid4().hex}/texts.jsonl", {"path": "m", "fingerprint": "f"}
    job, shards, listing = plan(str(folder), output, model, 16, False)
    shutil.copyfile(folder / "b" / "004.png", folder / "a" / "added.png")
    later, later_shards, _ = plan(str(folder), output, model, 16, False)
    assert {image for shard in shards for image in job.images(shard)} == set(listing.images)
    assert sum(len(later.images(shard)) for shard in later_shards) == len(listing.images) + 1


def test_an_overwrite_that_is_killed_leaves_no_old_texts_beside_the_new_ones(folder, tmp_path, monkeypatch):
    output, model = tmp_path / "texts.jsonl", {"path": "m", "fingerprint": "f"}
    job, _, _ = plan(str(folder), str(output), model, 16, overwrite=False)
    for number in range(job.shards):
        job.write(job.shard_path(number), b"{}\n")
        job.write_record(number, Record(stamps={"a.png": "1-2"}))
    remove, calls = storage.remove, iter(range(9))

    def killed(path):
        if next(calls) == 2:
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(storage, "remove", killed)
        plan(str(folder), str(output), model, 1000, overwrite=True)
    assert plan(str(folder), str(output), model, 1000, overwrite=True)[0].shards == 1
    assert not list(tmp_path.glob("texts-0*"))
    assert all(job.read_record(number) == Record() for number in range(job.shards))


def test_texts_whose_records_are_gone_do_not_stay_beside_new_ones(folder, model, tmp_path):
    output = tmp_path / "texts.jsonl"
    transcribe(str(folder), str(output), model, LOCAL, images_per_shard=16)
    old = sorted(path.name for path in tmp_path.glob("texts-0*"))
    for name in ("texts-00000-of-00003.csv", "texts-1-of-2.jsonl"):
        (tmp_path / name).write_text("mine")
    shutil.rmtree(tmp_path / "texts.jsonl.state")
    with pytest.raises(BatchError, match=rf"{old[0]} exists, .*there is no .*\.state.*delete 4 files .*--overwrite"):
        transcribe(str(folder), str(output), model, LOCAL)
    assert sorted(path.name for path in tmp_path.glob("texts-0*.jsonl")) == old
    transcribe(str(folder), str(output), model, LOCAL, overwrite=True)
    assert [path.name for path in tmp_path.glob("texts-0*.jsonl")] == ["texts-00000-of-00001.jsonl"]
    assert {path.read_text() for path in tmp_path.glob("texts*-of-0000[23]*.*")} == {"mine"}
    assert (tmp_path / "texts-1-of-2.jsonl").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.either_stack
def test_two_local_workers_give_the_same_files(folder, model, tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    transcribe(str(folder), str(one), model, LOCAL, images_per_shard=8)
    assert transcribe(str(folder), str(two), model, TWO_WORKERS, images_per_shard=8).new == IMAGES + 1
    assert contents(one) == contents(two)


@pytest.mark.slow
@pytest.mark.either_stack
def test_a_dask_cluster_gives_the_same_files(folder, model, dask, tmp_path):
    """A scheduler and two workers, processes of their own, that find the images under the same path."""
    one, many = tmp_path / "one.jsonl", tmp_path / "many.jsonl"
    transcribe(str(folder), str(one), model, LOCAL, images_per_shard=8)
    with dask.busy() as workers:
        outcome = transcribe(str(folder), str(many), model, dask.options, images_per_shard=8)
    assert outcome.new == IMAGES + 1
    assert len(workers) == 2
    assert contents(one) == contents(many)


@pytest.mark.slow
@pytest.mark.either_stack
def test_a_killed_run_goes_on_where_it_stopped(model, tmp_path, capfd):
    folder, output = tmp_path / "in", tmp_path / "texts.jsonl"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.png").write_bytes(encode(drawn_image(60 + number, 30, number)))
    for number in range(200, 4000):
        os.link(folder / f"{number % 200}.png", folder / f"{number}.png")
    arguments = [
        "transcribe", "--input", str(folder), "--output", str(output),
        "--model", model, "--shard-size", "100", "--json", "--workspace", str(tmp_path / "workspace"),
    ]  # fmt: skip
    with open(tmp_path / "killed.log", "wb") as log:
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        said = (tmp_path / "killed.log").read_text
        until(lambda: len(list(tmp_path.glob("texts-0*.jsonl"))) >= 3 or process.poll() is not None, 120, said)
        assert process.poll() is None, said()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    whole = contents(output)
    assert 3 <= len(whole) < 40
    assert cli.main(arguments) == 0  # here: another process would import for ten seconds
    outcome = json.loads(capfd.readouterr().out)
    # The last shard may be there without its record.
    assert 4000 - 110 * len(whole) - 200 < outcome["new"] <= 4000 - 60 * (len(whole) - 1)
    assert len(texts(output)) == 4000 and outcome["errors"] == 0
    assert {name: data for name, data in contents(output).items() if name in whole} == whole


def test_images_model_and_texts_in_a_bucket(folder, model, tmp_path, s3):
    os.remove(os.path.join(os.fsencode(folder), b"caf\xe9.png"))  # names of objects are UTF-8
    bucket = s3.bucket()
    for source, name in ((str(folder), "in"), (model, "models/7")):
        storage.copy_tree(source, f"{bucket}/{name}")

    def run(**settings):
        settings = {"images_per_shard": 16, **settings}
        return transcribe(f"{bucket}/in", f"{bucket}/out/texts.jsonl", f"{bucket}/models/7", LOCAL, **settings)

    def result(place):
        return {name: storage.read(f"{place}/{name}") for name in storage.entries(place)[1]}

    transcribe(str(folder), str(tmp_path / "out" / "texts.jsonl"), model, LOCAL, images_per_shard=16)
    outcome = run()
    assert (outcome.new, outcome.errors, outcome.shards) == (IMAGES, 2, 4)
    there = result(f"{bucket}/out")
    assert there == result(str(tmp_path / "out")) and len(there) == 5
    assert run().new == 0
    storage.remove(f"{bucket}/out/texts.jsonl.state/00002.json")  # a killed worker's shard has no record
    assert run().new == len(there["texts-00002-of-00004.jsonl"].splitlines())
    storage.write(f"{bucket}/in/new.png", encode(drawn_image(77)))
    assert run().new == 1
    assert run(overwrite=True).new == IMAGES + 1
    storage.remove_tree(f"{bucket}/in")
    with pytest.raises(NoImages):
        run()
