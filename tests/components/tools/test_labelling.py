"""`htr label`: what the newest model is sure to read becomes training data, and every image is accounted for."""

import csv
import re
import shlex
import shutil
import threading
import uuid
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common import storage
from components.common.console import announced
from components.common.folders import made_whole
from components.example_gen import dataset
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLITS
from components.tools import labelled
from components.tools.labelling import labelling
from components.tools.review import review
from components.tools.sample_data.generator import generate
from components.transform.settings import TransformConfig
from htr_client import ImageError, Timings, Transcription
from htr_client.pages.reading import find_page
from htr_client.suspicion import Suspicion
from htr_client.testing import find_bars
from pipeline import cli
from tests.conftest import drawn_image, encode, failing_bucket

IMAGES, LABELLED = 80, 30
TABLE = "written_name.csv"


def rows(table: Path):
    with open(table, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A folder whose table labels some images; besides, one that is no image, and the copy of one."""
    folder = tmp_path_factory.mktemp("data") / "names"
    generate(folder, IMAGES, dirty_fraction=0)
    lines = (folder / TABLE).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / TABLE).rename(folder.parent / "truth.csv")
    (folder / TABLE).write_text("".join(lines[: LABELLED + 1]), encoding="utf-8")
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG and nothing else")
    last = sorted((folder / "images").iterdir())[-1]
    shutil.copy(last, last.with_name(f"copy{last.suffix}"))
    return folder


@pytest.fixture(scope="module")
def read(names):
    output = names.parent / "read"
    assert cli.main(["label", str(names), "--data", str(names), "--output", str(output), "--base", "word"]) == 0
    return output


def test_sure_texts_become_labels(names, read):
    truth = {Path(row["FILENAME"]).name: row["IDENTITY"] for row in rows(names.parent / "truth.csv")}
    found = rows(read / "labels.csv")
    assert all(float(row["confidence"]) >= 0.5 for row in found)
    sources = [Path(row["source"]) for row in found]
    assert [(read / row["filename"]).read_bytes() for row in found] == [path.read_bytes() for path in sources]
    known = {Path(row["FILENAME"]).name for row in rows(names / TABLE)}
    assert not known & {path.name for path in sources}
    texts = [truth.get(path.name, row["text"]) == row["text"] for path, row in zip(sources, found, strict=True)]
    assert len(texts) > (IMAGES - LABELLED) / 2 and sum(texts) / len(texts) > 0.7


def test_every_image_is_accounted_for(names, tmp_path, capsys):
    output = str(tmp_path / "read")
    assert cli.main(["label", str(names), "--data", str(names), "--output", output, "--base", "word"]) == 0
    said = capsys.readouterr().out
    left_out = {reason: int(count) for count, reason in re.findall(r"left out: (\d+) images? (.+)", said)}
    assert left_out["labelled already"] == LABELLED and left_out["the same as another one"] == 1
    assert any(reason.startswith("could not be read; the first: ") for reason in left_out)
    (labelled,) = re.findall(r"(\d+) images? in ", said)
    assert int(labelled) + sum(left_out.values()) == IMAGES + 2
    assert f"htr run --data {names} --data {output}\n" in said
    assert f"these are listed in {output}/left-out.txt\n" in said
    with open(f"{output}/left-out.txt", encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file, dialect="excel-tab"))
    written = {row["source"] for row in rows(Path(output) / "labels.csv")}
    assert written | {row["image"] for row in listed} == set(map(str, (names / "images").iterdir()))
    counts = Counter(row["reason"] for row in listed)
    assert counts.total() == sum(left_out.values()) and (counts["known"], counts["unread"]) == (LABELLED, 1)
    assert all(row["text"] and float(row["confidence"]) < 0.5 for row in listed if row["reason"] == "unsure")
    sample = dataset.examine_all(DataConfig(paths=[output]), TransformConfig())
    assert len(list(sample)) == len(written), "the list holds no labels"


def test_an_image_that_cannot_be_opened_is_left_to_what_transcribes_it(tmp_path):
    paths = [str(tmp_path / name) for name in ("gone.png", "a.png")]
    Path(paths[1]).write_bytes(encode(drawn_image()))
    assert list(labelled.unlabelled(paths, set(), labelled.Counts())) == paths


def test_the_command_to_train_with_them_is_about_the_same_settings(names, tmp_path, capsys):
    settings, output = tmp_path / "run.yaml", tmp_path / "my out"
    settings.write_text(f"data: {{paths: ['{names}']}}\nworkspace: '{tmp_path / 'w'}'\n")
    command = ["label", str(names), "--config", str(settings), "--set", "data.limit=30", "--output", str(output)]
    assert cli.main([*command, "--base", "line", "--above", "0.1"]) == 0
    (printed,) = re.findall(r"^  (htr run .+)$", capsys.readouterr().out, re.MULTILINE)
    data, sets = ["--data", str(names), "--data", str(output)], ["--set", "data.limit=30"]
    sets += ["--set", "transform.preset=line"]  # what such a model reads may be too long for the default
    assert shlex.split(printed) == ["htr", "run", *data, "--config", str(settings), *sets]


@pytest.fixture(scope="module")
def scans(names):
    """Images that a server is not sent as they are, one of each kind, and one that it is."""
    folder, exif = names.parent / "scans", Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    greys = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((names / "images").glob("SAMPLE*"))[:8]]
    folder.mkdir()
    for grey, name in zip(greys, ("a.png", "b.webp", "c.tif", "d.bmp"), strict=False):
        (folder / name).write_bytes(encode(grey, Path(name).suffix))
    (folder / "tall.png").write_bytes(encode(cv2.resize(greys[4], None, fx=12, fy=12)))
    (folder / "deep.png").write_bytes(encode(greys[5].astype(np.uint16) * 257))
    Image.fromarray(greys[6]).transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    cv2.imwrite(str(folder / "alpha.png"), cv2.cvtColor(greys[7], cv2.COLOR_GRAY2BGRA))
    return folder


def test_images_that_htr_label_has_written_are_known_in_every_format(scans, tmp_path, capsys):
    arguments = ["label", str(scans), "--base", "word", "--above", "0", "--output"]
    assert cli.main([*arguments, str(tmp_path / "read")]) == 0
    made = rows(tmp_path / "read" / "labels.csv")
    assert {Path(row["source"]).name for row in made} == {path.name for path in scans.iterdir()}
    capsys.readouterr()
    assert cli.main([*arguments, str(tmp_path / "again"), "--data", str(tmp_path / "read")]) == cli.USAGE
    assert "all of these images are labelled already" in capsys.readouterr().err


def test_images_that_htr_review_has_written_are_known_in_every_format(scans, tmp_path):
    paths = sorted(map(str, scans.iterdir()))
    answers = [Transcription("Anna", 0.2, (), (), "htr", 7, path, Timings(0.0, 0.0, 0.0), None) for path in paths]
    assert review.write(review.from_answers(answers, 0.5, []), str(tmp_path / "review"), 100) == (8, 8)
    known = set(labelled.digests(DataConfig(paths=[str(tmp_path / "review")]), []))
    counts = labelled.Counts()
    assert not list(labelled.unlabelled(paths, known, counts)) and counts.known == len(paths)
    # Among images without a label, one that was written is a copy of its original.
    written = sorted(map(str, (tmp_path / "review" / "images").iterdir()))
    assert list(labelled.unlabelled([*paths, *written], set(), counts)) == paths and counts.repeated == len(paths)


def test_they_stay_in_training(names, read):
    splits, by_model = {}, {}
    for sample in dataset.examine_all(DataConfig(paths=[str(names), str(read)]), TransformConfig()):
        splits.setdefault(sample.source, set()).add(sample.split)
        by_model.setdefault(sample.source, set()).add(sample.by_model)
    assert splits == {"names": set(SPLITS), "read": {"train"}} and by_model == {"names": {False}, "read": {True}}


def test_a_bucket_that_fails_makes_no_image_unlabelled(names, tmp_path, capsys):
    bucket = f"memory://{uuid.uuid4().hex}/names"
    storage.copy_tree(str(names), bucket)
    arguments = ["label", str(names), "--data", bucket, "--output", str(tmp_path / "read"), "--base", "word"]
    with failing_bucket(".png", ".jpg"):
        assert cli.main(arguments) == cli.ERROR  # another try may succeed
    assert "The data cannot be read: " in (error := capsys.readouterr().err) and "503 Slow Down" in error
    assert not list(tmp_path.iterdir())


def test_a_bucket_gives_several_labelled_images_at_a_time_and_how_many_is_said(names, tmp_path, capsys, monkeypatch):
    bucket, both = f"memory://{uuid.uuid4().hex}/names", threading.Barrier(2)
    storage.copy_tree(str(names), bucket)
    read = MemoryFileSystem.cat_file

    def with_another(self, path, *args, **kwargs):
        if "/images/" in path:
            both.wait(timeout=10)  # for a read that is under way as well
        return read(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", with_another)
    monkeypatch.setattr(announced.__wrapped__, "__defaults__", (0.0, 30.0))  # not only after some seconds
    labelled = [str(names / "images" / row["FILENAME"]) for row in rows(names / TABLE)]
    arguments = ["label", *labelled, "--data", bucket, "--output", str(tmp_path / "read"), "--base", "word"]
    assert cli.main(arguments) == cli.USAGE
    told = capsys.readouterr().err
    assert "all of these images are labelled already" in told
    assert re.search(r"  Reading what is labelled: \d+ images? \(0:00 elapsed\)", told)


def test_tables_that_are_passed_over_are_told(names, tmp_path, capsys):
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    (labelled / "labels.csv").write_text("filename,text\n", encoding="utf-8")
    (labelled / "notes.csv").write_text("who,what\nAnna,came\n", encoding="utf-8")
    arguments = ["label", str(names), "--data", str(labelled), "--output", str(tmp_path / "read"), "--base", "word"]
    assert cli.main([*arguments, "--above", "1"]) == cli.USAGE
    err = capsys.readouterr().err
    assert any(line.startswith("note: ") and f"{labelled}/notes.csv" in line for line in err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{names}/images/broken.png"], "could not be read; the first: "),
        (["{names}", "--data", "{names}", "--above", "1"], "of no image the model is as sure as 1"),
        (["{names}", "--output", "{names}"], "holds something already"),
        (["{names}", "--data", "/nowhere"], "/nowhere does not exist"),
        (["{names}", "--model", "/nowhere"], "/nowhere is neither a version"),
    ],
)
def test_where_nothing_can_be_labelled_nothing_is_left(names, tmp_path, capsys, arguments, message):
    arguments = [argument.format(names=names) for argument in arguments]
    base = [] if "--model" in arguments else ["--base", "word"]
    assert cli.main(["label", "--output", str(tmp_path / "read"), *base, *arguments]) == cli.USAGE
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_command_writes_is_left_alone(names, tmp_path, capsys):
    with made_whole(tmp_path / "read") as target:
        target.mkdir()
        (target / "others").touch()
        arguments = ["label", str(names), "--output", str(tmp_path / "read"), "--base", "word"]
        assert cli.main(arguments) == cli.USAGE
        assert f"Another command writes {tmp_path / 'read'}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["read", "others"]


@pytest.mark.parametrize(
    ("suspicions", "said"),
    [
        ((), "in 2 images the model sees no writing, and 0 of another kind"),
        ((Suspicion("no_text", "None."),), "in 2 images the model sees no writing, and 0 of another kind"),
        ((Suspicion("blank", "Empty."),), "in 0 images the model sees no writing, and 2 of another kind"),
        (
            (Suspicion("page_like", "A page."), Suspicion("no_text", "None.")),
            "in 2 images the model sees no writing, and 0 of another kind",
        ),
    ],
)
def test_images_without_writing_are_not_called_unsure(tmp_path, suspicions, said):
    answers = [Transcription("", 0.99, (), (), "htr", 7, "a.png", Timings(0.0, 0.0, 0.0), None, suspicions)] * 2
    counts = labelled.Counts()
    with pytest.raises(labelling.LabellingError, match=f"Nothing to label: {said}") as raised:
        labelling.write(answers, str(tmp_path / "read"), 0.5, counts)
    assert "--above" not in str(raised.value) and counts.unsure == 0


@pytest.mark.parametrize(("text", "confidence"), [(";", 0.9), ("se", 0.0078), ("", 0.9)])
def test_pages_are_left_out_and_large_images_of_a_word_are_not(tmp_path, text, confidence):
    """Both are of the shape of a page; a model for words may be sure of what it reads in one, and seldom is."""
    grey = np.full((700, 900), 240, np.uint8)
    (tmp_path / "word.png").write_bytes(encode(grey))  # in writing as large as the image no line is found
    grey[120:150, 100:700] = grey[220:250, 100:700] = 30
    (tmp_path / "page.png").write_bytes(encode(grey))
    shape = (Suspicion("page_like", "A page."),)
    answers = [
        Transcription(*told, (), (), "htr", 7, str(tmp_path / f"{name}.png"), Timings(0.0, 0.0, 0.0), None, shape)
        for name, told in (("page", (text, confidence)), ("word", ("Anna", 0.9)))
    ]
    counts, find = labelled.Counts(), partial(find_page, find_maps=find_bars)
    labelling.write(answers, str(tmp_path / "read"), 0.5, counts, find_page=find)
    assert [row["text"] for row in rows(tmp_path / "read" / "labels.csv")] == ["Anna"]
    assert (counts.labelled, counts.page) == (1, 1)
    assert counts.left_out == [(str(tmp_path / "page.png"), "page", text, str(confidence), "page_like")]
    with pytest.raises(labelling.LabellingError, match=r"1 image of pages.* htr transcribe --kind page"):
        labelling.write(answers[:1], str(tmp_path / "none"), 0.5, labelled.Counts(), find_page=find)


def test_an_image_that_is_read_with_a_raised_limit_is_written(scans, tmp_path):
    paths = [str(scans / "b.webp")]
    answers = [Transcription("Anna", 0.9, (), (), "htr", 7, path, Timings(0.0, 0.0, 0.0), None) for path in paths]
    with pytest.raises(labelling.LabellingError, match=r"1 could not be read"):
        labelling.write(answers, str(tmp_path / "read"), 0.5, labelled.Counts(), max_pixels=10)
    labelling.write(answers, str(tmp_path / "read"), 0.5, counts := labelled.Counts(), max_pixels=10**9)
    assert counts.labelled == 1
    known = set(labelled.digests(DataConfig(paths=[str(tmp_path / "read")]), []))
    assert not list(labelled.unlabelled(paths, known, labelled.Counts(), max_pixels=10**9))
    assert list(labelled.unlabelled(paths, known, labelled.Counts(), max_pixels=10)) == paths


ANSWERS = st.tuples(
    st.sampled_from(["", " ", "Anna", '"Müller", 7\nGasse']),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(ANSWERS, min_size=1), st.floats(0, 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_answers_add_up(tmp_path, answers, above):
    image = tmp_path / "image.png"
    image.write_bytes(encode(drawn_image()))
    given_answers = [
        Transcription(
            "" if failed else text, 0.0 if failed else confidence, (), (), "htr", 7,
            str(tmp_path / "gone.png" if gone else image), Timings(0.0, 0.0, 0.0),
            ImageError("not_an_image", "broken") if failed else None, (Suspicion("blank", "Empty."),) * suspect,
        )
        for text, confidence, failed, suspect, gone in answers
    ]  # fmt: skip
    counts = labelled.Counts()
    output = tmp_path / "read"
    shutil.rmtree(output, ignore_errors=True)
    try:
        labelling.write(given_answers, str(output), above, counts)
        written = [row["text"] for row in rows(output / "labels.csv")]
    except labelling.LabellingError:
        written = []
        assert not output.exists()
    assert len(written) == counts.labelled
    assert counts.labelled + counts.unsure + counts.empty + counts.suspect + len(counts.unread) == len(answers)
    assert counts.labelled + len(counts.left_out) == len(answers)
    sure = [a for a in answers if not a[2] and not a[3] and not a[4] and a[1] >= above and a[0].strip()]
    assert written == [text for text, *_ in sure]
