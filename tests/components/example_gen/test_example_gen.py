"""HandwritingExampleGen: what its executor writes, and its tf.Examples."""

import csv
import os
from collections import Counter
from dataclasses import replace

import pytest
import tensorflow as tf
from tfx.orchestration import metadata, pipeline
from tfx.types import standard_artifacts
from tfx_bsl.coders import example_coder

from components.common.settings import ConfigError
from components.example_gen import component, data_version_step, dataset
from components.example_gen.quarantine import Quarantine, TooManyRejects, check_counts, read_counts
from components.example_gen.rejects import REJECTS_FILE, Reject
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLITS
from components.example_gen.table import DatasetError
from components.line_finder.settings import PagesConfig
from components.line_finder.steps.example_gen import Executor as PageExecutor
from components.line_finder.steps.example_gen import PageExampleGen
from components.report import summary
from components.transform.settings import TransformConfig
from htr_client.pages import Page, write
from pipeline.beam.options import pipeline_options
from pipeline.beam.settings import BeamConfig
from pipeline.runners.local_runner import LocalRunner
from tests.components import hostile
from tests.components.line_pages import LINE, save_page
from tests.conftest import drawn_image, encode, write_dataset

STATISTICS = {"paper_level": 250.0, "ink_level": 20.0, "ink_share": 0.125, "sharpness": 0.5}


def test_examples_are_read_the_same_by_tensorflow_and_tfx():
    sample = dataset.Sample(
        "set/images/\u00fc.png", "set", b"\x89PNG" * 99, "\u0153uvre", "", "eval", 320, 64, (320, 64), STATISTICS
    )
    features = {
        "image": sample.image, "text": sample.text.encode(), "id": sample.id.encode(), "source": b"set", "writer": b"",
        "width": 320, "height": 64, "text_length": 5, "length_band": dataset.length_band(5).encode(), **STATISTICS,
    }  # fmt: skip
    kinds = {bytes: tf.string, int: tf.int64, float: tf.float32}
    record = component.encode(sample)
    parsed = tf.io.parse_example(
        [record], {name: tf.io.FixedLenFeature([], kinds[type(value)]) for name, value in features.items()}
    )
    assert {name: value.numpy()[0] for name, value in parsed.items()} == features
    table = example_coder.ExamplesToRecordBatchDecoder().DecodeBatch([record]).to_pydict()
    assert {name: values for name, (values,) in table.items()} == {name: [value] for name, value in features.items()}
    assert {component.encode(sample) for _ in range(9)} == {record}, "the same row is the same bytes"


def execute(folder, data, workers=1):
    """Runs the step's executor; returns the texts by split and id, and the folder of the quarantine."""
    examples, quarantine = standard_artifacts.Examples(), Quarantine()
    examples.uri, quarantine.uri = str(folder / "examples"), str(folder / "quarantine")
    options = pipeline_options(BeamConfig(workers=workers))
    context = component.Executor.Context(beam_pipeline_args=options, tmp_dir=str(folder / "tmp"), unique_id="1")
    component.Executor(context).Do(
        {},
        {"examples": [examples], "quarantine": [quarantine]},
        {"data_config": data.model_dump_json(), "transform_config": TransformConfig().model_dump_json()},
    )
    found = []
    for split in SPLITS:
        files = [str(path) for path in (folder / "examples" / f"Split-{split}").iterdir()]
        for record in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            found.append((split, *(features[name].bytes_list.value[0].decode() for name in ("id", "text"))))
    return found, folder / "quarantine"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.either_stack)])
def test_every_row_is_in_the_examples_or_in_the_quarantine(tmp_path, workers):
    cases = hostile.build(tmp_path)
    data = DataConfig(paths=[str(tmp_path / "data")], max_rejected=1.0)
    written, quarantine = execute(tmp_path, data, workers)
    found = Counter((name, text) for _, name, text in written)
    checked = list(dataset.examine_all(data, TransformConfig()))
    assert found == Counter((row.id, row.text) for row in checked if isinstance(row, dataset.Sample))
    with open(quarantine / REJECTS_FILE, encoding="utf-8", newline="") as file:
        rejects = [(row["csv"], int(row["row"]), row["reason"]) for row in csv.DictReader(file)]
    assert Counter(rejects) == Counter((r.table, r.line, r.reason) for r in checked if isinstance(r, Reject))
    counts = read_counts(str(quarantine))
    assert sum(counts["accepted"].values()) == found.total() and found.total() + len(rejects) == len(cases)
    assert counts["rejected"] == Counter(reason for _, _, reason in rejects)


def test_what_was_decided_for_all_rows_is_counted(tmp_path):
    texts = ["\u05e9\u05dc" if i == 3 else "ab" for i in range(60)]
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": text} for i, text in enumerate(texts)])
    lines = [f"{i},{text},me,{'7' if i % 2 else ''}\n" for i, text in enumerate(texts)]
    header = "filename,text,writer,labelling_model\n"
    (folder / "labels.csv").write_text(header + "".join(lines), encoding="utf-8")
    data = DataConfig(paths=[str(folder)], limit=40)
    _, quarantine = execute(tmp_path, data)
    counts = read_counts(str(quarantine))
    assert all(counts["accepted"][split] for split in SPLITS) and sum(counts["accepted"].values()) == 40
    assert counts["left_out"] == 20 and counts["mended"] == {"extension": 40} and not counts["split_by_writer"]
    examined = list(dataset.examine_all(data, TransformConfig()))
    assert counts["by_model"] == Counter(sample.split for sample in examined if int(sample.id[5:-4]) % 2)
    notes = " ".join(counts["notes"])
    assert "data.limit=40 leaves out 20 of 60 rows" in notes and "images are split one by one" in notes
    assert "Found by adding the extension that the row leaves out (0 for 0.jpg): 40 images." in notes
    assert "(Hebrew 1)" in counts["problems"][0]


def test_a_model_directory_that_pusher_cannot_write_ends_the_first_step(tmp_path):
    write_dataset(tmp_path / "data", [{"filename": "1.png", "text": "ab"}])
    (tmp_path / "file").touch()
    fingerprint = standard_artifacts.String()
    fingerprint.uri = str(tmp_path / "fingerprint")
    settings = {"data_config": DataConfig(paths=[str(tmp_path / "data")]).model_dump_json()}
    step = data_version_step.Executor()
    with pytest.raises(ConfigError, match=r"push\.model_dir: \S+/file/htr cannot be written .* Not a directory"):
        step.Do({}, {"fingerprint": [fingerprint]}, {**settings, "model_dir": str(tmp_path / "file" / "htr")})
    step.Do({}, {"fingerprint": [fingerprint]}, {**settings, "model_dir": str(tmp_path / "models" / "htr")})
    assert fingerprint.read() and not (tmp_path / "models").exists()


def test_kaggle_layout_keeps_its_splits(tmp_path):
    folder = tmp_path / "data"
    names = {"train": ("train", 40), "validation": ("validation", 12), "test": ("eval", 12)}
    for split, (_, count) in names.items():
        rows = [{"FILENAME": f"{split.upper()}_{i:04d}.jpg", "IDENTITY": "ANNA"} for i in range(count)]
        made = write_dataset(tmp_path / split, rows)
        images = folder / f"{split}_v2" / split
        images.mkdir(parents=True)
        for path in made.glob("*.jpg"):
            path.rename(images / path.name)
        (made / "labels.csv").rename(folder / f"written_name_{split}_v2.csv")
    written, quarantine = execute(tmp_path, DataConfig(paths=[str(folder)]))
    expected = Counter(
        (known, f"data/{split}_v2/{split}/{split.upper()}_{i:04d}.jpg", "ANNA")
        for split, (known, count) in names.items() for i in range(count)
    )  # fmt: skip
    assert Counter(written) == expected
    counts = read_counts(str(quarantine))
    assert counts["accepted"] == {"train": 40, "validation": 12, "eval": 12} and counts["rejected"] == {}


def run_alone(workspace, kind, data):
    """State of the ExampleGen of rows or pages after a run of a pipeline that has no other step."""
    copy = str(workspace / "rejects.csv")
    step = (
        component.HandwritingExampleGen(data, TransformConfig(), copy)
        if kind == "rows" else PageExampleGen(data, PagesConfig(), copy)
    )  # fmt: skip
    database = metadata.sqlite_metadata_connection_config(str(workspace / "metadata.db"))
    LocalRunner().run(
        pipeline.Pipeline("htr", str(workspace / "root"), components=[step], enable_cache=True,
                          metadata_connection_config=database, beam_pipeline_args=pipeline_options(BeamConfig()))
    )  # fmt: skip
    (ran,) = summary.read(str(workspace), "htr").steps
    return ran.state


@pytest.mark.parametrize("kind", ["rows", "pages"])
def test_the_listed_rejects_are_those_of_this_run_also_from_the_cache(tmp_path, kind):
    folders = {"a": 3, "b": 1}
    for name, empty in folders.items():
        if kind == "rows":
            rows = [{"filename": f"{i}.png", "text": "" if i < empty else "ab"} for i in range(60)]
            write_dataset(tmp_path / name, rows)
        for leaf in range(12 if kind == "pages" else 0):
            save_page(tmp_path / name, f"leaf{leaf}", lines=() if leaf < empty else (LINE,))

    def listed(name):
        """State of ExampleGen in a run with a data folder, and the number of rejects that are listed then."""
        state = run_alone(tmp_path, kind, DataConfig(paths=[str(tmp_path / name)], max_rejected=0.5))
        return state, len((tmp_path / "rejects.csv").read_text().splitlines()) - 1

    assert [listed(name) for name in "aba"] == [("COMPLETE", 3), ("COMPLETE", 1), ("CACHED", 3)]


@pytest.mark.parametrize("kind", ["rows", "pages"])
def test_a_replaced_image_is_noticed(tmp_path, kind):
    data = DataConfig(paths=[str(tmp_path / "data")])
    if kind == "rows":
        write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": "ab"} for i in range(40)])
        image = tmp_path / "data" / "7.png"
    else:
        for leaf in range(6):
            save_page(tmp_path / "data", f"leaf{leaf}")
        image = tmp_path / "data" / "leaf5.png"

    assert [run_alone(tmp_path, kind, data) for _ in range(2)] == ["COMPLETE", "CACHED"]
    image.write_bytes(encode(drawn_image(300, 200, 5)))
    assert [run_alone(tmp_path, kind, data) for _ in range(2)] == ["COMPLETE", "CACHED"]


def test_a_split_without_images_ends_the_run_and_as_many_rejected_rows_as_allowed_do_not():
    data = DataConfig(paths=["names"], max_rejected=0.1)
    counts = {"accepted": {"train": 80, "validation": 10, "eval": 0}, "rejected": {"empty_label": 10}}
    with pytest.raises(DatasetError, match="No image is left for eval; rejected are 10 of 100 rows"):
        check_counts(counts, data, [("empty_label", "row 7")], None)
    counts["accepted"] = {"train": 80, "validation": 5, "eval": 5}
    check_counts(counts, data, [], None)


def execute_on_pages(folder, data, rejects_copy):
    """Runs the executor of the step for pages; returns the folder of the quarantine."""
    examples, quarantine = standard_artifacts.Examples(), Quarantine()
    examples.uri, quarantine.uri = str(folder / "examples"), str(folder / "quarantine")
    context = PageExecutor.Context(
        beam_pipeline_args=pipeline_options(BeamConfig()), tmp_dir=str(folder / "tmp"), unique_id="1"
    )
    PageExecutor(context).Do(
        {},
        {"examples": [examples], "quarantine": [quarantine]},
        {
            "data_config": data.model_dump_json(), "pages_config": PagesConfig().model_dump_json(),
            "rejects_copy": str(rejects_copy),
        },
    )  # fmt: skip
    return quarantine.uri


@pytest.mark.parametrize("kind", ["rows", "pages"])
def test_too_many_rejects_are_told_with_one_of_each_reason(tmp_path, kind):
    folder = tmp_path / "data"
    data = DataConfig(paths=[str(folder)])
    if kind == "rows":
        write_dataset(folder, [{"filename": f"{i}.png", "text": "" if i in (7, 9) else "ab"} for i in range(30)])
        for name in ("3", "5", "8"):
            (folder / f"{name}.png").unlink()
        (folder / "3.png").write_text("no image")
        (folder / "labels.csv").rename(folder / "\x1b[2J.csv")  # which a terminal would obey
    else:
        for leaf in range(12):
            save_page(folder, f"leaf{leaf:02d}", lines=() if leaf in (4, 6) else (LINE,))
    with pytest.raises(TooManyRejects) as raised:
        execute(tmp_path, data) if kind == "rows" else execute_on_pages(tmp_path, data, tmp_path / "copy.csv")
    told, *examples = str(raised.value).split("\n")
    if kind == "rows":
        assert "5 of 30 rows were rejected" in told and "2 missing_file" in told
        found = {line.split(",")[0].strip(): line for line in examples}
        assert len(found) == len(examples) == 3 and "e.g. row 5 of data/\\x1b[2J.csv: " in found["not_an_image"]
        assert found["empty_label"].partition(" e.g. ")[2].startswith(("row 9 of", "row 11 of"))
        assert "no file 5.png beside" in found["missing_file"] or "no file 8.png beside" in found["missing_file"]
    else:
        assert "2 of 12 pages were rejected" in told
        assert len(examples) == 1 and examples[0].startswith("  no_lines, e.g. data/leaf0")
        assert examples[0].endswith(": the page has no lines")
    assert all(line.isprintable() and len(line) < 400 for line in examples)


def test_rows_that_a_person_has_found_to_have_no_text_are_not_too_many(tmp_path):
    texts = ["UNREADABLE" if i % 2 else "ab" for i in range(80)]
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": text} for i, text in enumerate(texts)])
    _, quarantine = execute(tmp_path, DataConfig(paths=[str(folder)]))
    assert read_counts(str(quarantine))["rejected"] == {"placeholder_label": 40}
    write_dataset(folder, [{"filename": f"{i}.png", "text": text if i > 20 else ""} for i, text in enumerate(texts)])
    with pytest.raises(TooManyRejects) as raised:
        execute(tmp_path / "again", DataConfig(paths=[str(folder)]))
    assert "21 of 80 rows were rejected (26.2%; data.max_rejected allows 10.0%): 21 empty_label." in str(raised.value)


def test_pages_whose_names_are_not_utf8_are_examples_and_rejected_pages(tmp_path):
    folder = tmp_path / "letters"
    for leaf in range(9):
        save_page(folder, f"leaf{leaf}")
    # Files beside the pages, as exports have them: no page is lost with them, and data.max_rejected is kept.
    (folder / "mets.xml").write_text('<mets xmlns="http://www.loc.gov/METS/"/>')
    for leaf in (1, 2, 3):
        (folder / f"leaf{leaf}-alto.xml").write_text(write(Page(f"leaf{leaf}.png", 300, 200, (LINE,)), "alto"))
    save_page(folder, "none", lines=(replace(LINE, baseline=()),))
    odd = os.fsdecode(b"m\xfcller")
    for name, new in (("leaf0", odd), ("none", f"{odd}-none")):
        (folder / f"{name}.xml").rename(folder / f"{new}.xml")
    copy = tmp_path / "rejected-pages.csv"
    counts = read_counts(execute_on_pages(tmp_path, DataConfig(paths=[str(folder)], max_rejected=0.2), copy))
    assert sum(counts["accepted"].values()) == 9
    assert counts["rejected"] == {"no_geometry": 1, "not_a_page": 1, "same_image": 3}
    with copy.open(encoding="utf-8", newline="") as file:
        (rejected,) = (row for row in csv.DictReader(file) if row["reason"] == "no_geometry")
    assert rejected["page"] == "letters/m\\xfcller-none" and rejected["reason"] == "no_geometry"
    assert f"{folder}/m\\udcfcller-none.xml has a line without a baseline" in rejected["detail"]
