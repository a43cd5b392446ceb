"""What is decided for all rows together: splits of few writers, the part that `data.limit` takes, notes."""

import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from components.common.settings import ConfigError
from components.example_gen import limit
from components.example_gen.dataset import Sample, examine_all
from components.example_gen.folders import find_tables
from components.example_gen.plan import make_plan
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLITS, assign_split, draw
from components.transform.settings import TransformConfig
from htr_client import RequestLog
from pipeline import cli
from pipeline.config import load
from tests.conftest import drawn_image, encode, write_dataset


def dataset(folder, writers, rows=60, **columns):
    """Rows by so many writers, whose shares are equal."""
    found = [{"filename": f"{i}.png", "text": "ab", **({"writer": f"w{i % writers}"} if writers else {}),
              **{name: value(i) for name, value in columns.items()}} for i in range(rows)]  # fmt: skip
    return write_dataset(folder, found)


def planned(folder, **settings):
    data = DataConfig(paths=[str(folder)], **settings)
    tables, _ = find_tables(data)
    return make_plan(tables, data), tables


def samples(folder, **settings):
    data = DataConfig(paths=[str(folder)], **settings)
    return [s for s in examine_all(data, TransformConfig()) if isinstance(s, Sample)]


def in_training(count):
    """Writers who are drawn for training, in the order in which they would be taken for other splits."""
    config = DataConfig()
    names = sorted((f"w{i}" for i in range(40) if draw(f"w{i}", config) > 0.2), key=lambda name: draw(name, config))
    return names[:count]


@pytest.mark.parametrize("writers", [0, 1, 2, 3, 4, 5, 6, 8, 12, 20])
@pytest.mark.parametrize("salt", ["", "1", "2", "3"])
def test_no_split_is_ever_empty(tmp_path, writers, salt):
    counts = Counter(s.split for s in samples(dataset(tmp_path, writers), split_salt=salt))
    assert set(counts) == set(SPLITS)
    assert counts["train"] >= 30


@pytest.mark.parametrize("salt", [str(i) for i in range(12)])
def test_writers_are_kept_together_where_there_are_enough(tmp_path, salt):
    by_writer = {}
    for sample in samples(dataset(tmp_path, 6), split_salt=salt):
        by_writer.setdefault(sample.writer, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in by_writer.values())


@pytest.mark.parametrize("writers", [2, 4])
def test_with_few_writers_images_are_drawn_one_by_one_and_that_is_said(tmp_path, writers):
    folder = dataset(tmp_path, writers, writer=lambda i: f"w{i % writers}" if i else "")
    plan, _ = planned(folder)
    assert not plan.splits.by_writer
    (note,) = plan.notes + plan.problems  # and nothing of the row without a writer, which does not matter then
    assert f"The labels name {writers} writers, too few" in note and "underestimated" in note
    found = samples(folder)
    assert {s.writer for s in found if s.split == "eval"} <= {s.writer for s in found if s.split == "train"}


def test_only_few_writers_are_called_few(tmp_path):
    named = dataset(tmp_path / "named", 20)
    (named / "labels.csv").rename(named / "labels_test.csv")
    assert not planned(named)[0].notes  # a problem says it
    first, second, *others = in_training(5)
    named = [first] * 30 + [second] * 30 + [others[i % 3] for i in range(40)]
    large = dataset(tmp_path / "large", 1, 100, writer=lambda i: named[i])
    (note,) = planned(large)[0].notes
    assert "too few would be left to train on: images are split one by one" in note and "The labels name" not in note


def test_writers_whose_names_differ_in_capitals_or_spaces_are_told(tmp_path):
    names = ["Anna M", "anna m", "Anna  M", "Bert", "Carla", "Dora", "Ede", "Fred"]
    plan, _ = planned(dataset(tmp_path, 1, 80, writer=lambda i: names[i % 8]))
    (note,) = [note for note in plan.notes if "capitals" in note]
    assert note.startswith("Writers whose names differ in capitals or spaces only: 'Anna  M', 'Anna M', 'anna m'. Each")


def test_what_a_command_has_added_stays_in_training_where_all_folders_say_train(tmp_path):
    ours = dataset(tmp_path / "ours", 20, 100)
    (ours / "labels.csv").rename(ours / "labels_train.csv")
    added = []
    for name in ("labelling_model", "guess"):
        rows = [{"filename": f"{i}.png", "text": "ab", "split": "train", name: "7"} for i in range(60)]
        added.append(write_dataset(tmp_path / name, rows))
    for folders, others in (([ours, *added], added), (added, []), ([ours], [])):
        data = DataConfig(paths=[str(folder) for folder in folders])
        plan = make_plan(find_tables(data)[0], data)
        assert plan.splits.in_training == {str(folder) for folder in others}
        found = {(s.source, s.split) for s in examine_all(data, TransformConfig())}
        assert {split for source, split in found if source in {folder.name for folder in others}} <= {"train"}
        assert {split for _, split in found} == set(SPLITS)


def test_texts_of_logged_requests_are_a_models(tmp_path):
    log = RequestLog(tmp_path / "requests", rate=1)
    for number in range(30):
        log.offer(encode(drawn_image(120, 40, number)), "ab", 0.9, "htr", 7)
    log.close()
    names = dataset(tmp_path / "names", 0)
    data = DataConfig(paths=[str(names), str(tmp_path / "requests")])
    (table,) = find_tables(DataConfig(paths=data.paths[1:]))[0]
    (problem,) = make_plan(find_tables(data)[0], data).problems
    assert problem.startswith(f"A model wrote 30 texts of {table.name}, a log of requests")
    assert {s.by_model for s in examine_all(data, TransformConfig()) if s.source == "requests"} == {True}
    # Where people have corrected them.
    path = Path(table.path)
    path.write_text(path.read_text(encoding="utf-8").replace(",htr,7,", ",htr,,"), encoding="utf-8")
    assert not make_plan(find_tables(data)[0], data).problems


def test_a_writer_who_wrote_much_is_not_taken_for_evaluation(tmp_path):
    first, *others = in_training(6)
    folder = dataset(tmp_path, 1, 100, writer=lambda i: first if i < 45 else others[i % 5])
    plan, _ = planned(folder)
    assert plan.splits.by_writer
    assert plan.splits.forced == {others[0]: "eval", others[1]: "validation"}
    assert f"taken instead: writer {others[0]} for eval" in plan.notes[0]
    assert "may change their split when writers are added" in plan.notes[0]


def test_what_is_named_for_evaluation_stays_there_when_its_writer_is_taken_for_validation(tmp_path):
    first, *others = in_training(6)
    folder = dataset(tmp_path, 1, writer=lambda i: [first, *others][i % 6],
                     split=lambda i: "test" if i < 12 else "")  # fmt: skip
    plan, _ = planned(folder)
    assert plan.splits.by_writer and plan.splits.forced == {first: "validation"}
    splits = Counter((s.writer == first, s.split) for s in samples(folder))
    assert splits == {(True, "eval"): 2, (True, "validation"): 8, (False, "eval"): 10, (False, "train"): 40}


def test_writers_are_not_taken_where_less_than_half_would_be_left_to_train_on(tmp_path):
    first, second, *others = in_training(5)
    folder = dataset(tmp_path, 1, 100, writer=lambda i: first if i < 30 else second if i < 60 else others[i % 3])
    plan, _ = planned(folder)
    assert not plan.splits.by_writer
    counts = Counter(s.split for s in samples(folder))
    assert set(counts) == set(SPLITS) and counts["train"] > 50


def test_what_the_draw_fills_stays_as_it_was(tmp_path):
    # Else training and evaluation images of existing datasets would mix.
    config = DataConfig()
    folder = dataset(tmp_path, 40, 200)
    plan, _ = planned(folder)
    assert plan.splits.by_writer and not plan.splits.forced and not plan.notes
    assert all(s.split == assign_split(None, s.writer, frozenset(), config) for s in samples(folder))


def test_added_writers_move_none_from_training_to_evaluation(tmp_path):
    before = {}
    for count in range(5, 40):
        splits = {s.writer: s.split for s in samples(dataset(tmp_path, count, 4 * count))}
        if set(splits.values()) == set(SPLITS):
            assert not [w for w, split in before.items() if split == "train" and splits[w] == "eval"]
            before = splits
    assert before, "some have all splits"


def test_the_writer_column_can_be_switched_off(tmp_path, capsys):
    folder = dataset(tmp_path / "data", 30, 90)
    assert {s.writer for s in samples(folder, writer_column="None")} == {""}
    assert cli.main(["check", "--data", str(folder), "--set", "data.writer_column=none"]) == 0
    assert "No writers are named" in capsys.readouterr().out
    assert len({s.writer for s in samples(folder)}) == 30  # and null is what it is by default
    assert load(overrides=["data.writer_column=null"]).data.writer_column is None


def test_without_writers_a_renamed_folder_has_other_splits_and_check_says_so(tmp_path, capsys):
    def splits(folder):
        return {s.id.partition("/")[2]: s.split for s in samples(folder, writer_column="none")}

    folder = dataset(tmp_path / "data", 30, 90)
    before = splits(folder)
    assert splits(shutil.copytree(folder, tmp_path / "copy" / folder.name)) == before
    renamed = folder.rename(tmp_path / "names_v2")
    after = splits(renamed)
    assert after.keys() == before.keys() and after != before
    cli.main(["check", "--data", str(renamed), "--set", "data.writer_column=none"])
    assert "the names of folder and images draw the splits: keep them" in " ".join(capsys.readouterr().out.split())


def test_the_split_column_can_be_switched_off(tmp_path):
    folder = dataset(tmp_path, 0, split=lambda i: "train")
    assert {s.split for s in samples(folder, split_column="none")} == set(SPLITS)


@pytest.mark.parametrize("text", ["1", "'1'", "1.5", "true"])
def test_a_salt_is_text(text):
    assert load(overrides=[f"data.split_salt={text}"]).data.split_salt == str(eval(text.capitalize()))
    with pytest.raises(ConfigError, match="split_salt"):
        load(overrides=["data.split_salt=[1]"])


def test_a_part_has_the_shares_of_the_whole(tmp_path):
    folder = dataset(tmp_path, 1, 400, writer=lambda i: "a" if i % 4 else f"b{i % 40}",
                     split=lambda i: ("train", "train", "train", "validation", "test")[i // 80])  # fmt: skip
    plan, (table,) = planned(folder, limit=100)
    taken = plan.read(table)
    assert len(taken) == 100 and plan.left_out == 300
    assert Counter(row.fields[3] for row in taken) == {"train": 60, "validation": 20, "test": 20}
    assert Counter(row.fields[2] for row in taken)["a"] == 75
    assert any("data.limit=100 leaves out 300 of 400 rows" in note for note in plan.notes)
    assert planned(folder, limit=100)[0].lines(table) == plan.lines(table)
    assert planned(folder, limit=400)[0].lines(table) is None


def test_a_part_is_drawn_and_not_the_beginning_of_a_file(tmp_path):
    plan, (table,) = planned(dataset(tmp_path, 0, 400), limit=100)
    assert 30 < sum(row.line > 200 for row in plan.read(table)) < 70


def test_a_part_stays_when_data_is_added():
    def taken(rows):
        found = [limit.Candidate(("data", ""), f"w{i % 7}", limit.rank(f"{i}.png"), 0, i) for i in range(rows)]
        return {row.line for row in limit.choose(found, 500)}

    before = taken(2000)
    assert len(before) == 500
    # Of 500 chosen among 2,000, 455 are to be expected among the 500 of 2,200; drawn anew it would be 114.
    assert len(before & taken(2200)) > 430


def test_folders_and_small_writers_keep_their_shares():
    found = [limit.Candidate((source, ""), f"{source}{i}", limit.rank(f"{i}"), 0, i)
             for source, count in (("large", 900), ("small", 100)) for i in range(count)]  # fmt: skip
    assert Counter(row.group[0] for row in limit.choose(found, 50)) == {"large": 45, "small": 5}


def test_rows_that_are_left_out_are_no_rejects(tmp_path, capsys):
    folder = dataset(tmp_path / "data", 0, 200)
    assert cli.main(["check", "--data", str(folder), "--set", "data.limit=50"]) == 0
    out = capsys.readouterr().out
    assert "data.limit=50 leaves out 150 of 200 rows" in out and "\n50 rows in" in f"\n{out}"
    assert "rejected" not in out


def test_unread_formats_are_counted(tmp_path):
    folder = dataset(tmp_path, 0)
    for name in ("1.HEIC", "2.heic", "scan.pdf", "notes.txt", "._1.HEIC", ".cache/3.heic"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (note,) = planned(folder)[0].notes
    assert "formats that are not read: 2 .heic, 1 .pdf" in note


@pytest.mark.parametrize(
    ("label", "scripts"),
    [("שלום", "Hebrew 1"), ("مرحبا", "Arabic 1"), ("ܐܒ", "Syriac 1"), ("abc שלום", "Hebrew 1")],
)
def test_labels_from_right_to_left_are_a_problem(tmp_path, label, scripts):
    folder = dataset(tmp_path, 0, text=lambda i: label if i == 7 else "ab")
    (problem,) = planned(folder)[0].problems
    assert f"right to left: 1 ({scripts}), for example row 9 of" in problem


@pytest.mark.parametrize("label", ["Привет", "ქართული", "ไทย", "漢字", "Zoë\u200f", "²½", "١٢٣", "۱۲۳"])
def test_other_labels_are_none(tmp_path, label):
    assert not planned(dataset(tmp_path, 0, text=lambda i: label))[0].problems


def test_a_writer_is_one_however_his_name_is_encoded(tmp_path):
    names = ["Andr\u00e9", "J\u00fcrgen", "Pe\u00f1a", "M\u00fcller", "Zo\u00eb", "Bj\u00f6rn"]
    forms = ("NFC", "NFD")
    writers = [unicodedata.normalize(forms[i % 2], names[i // 2 % len(names)]) for i in range(60)]
    rows = [{"filename": f"{i}.png", "text": "ab", "writer": writer} for i, writer in enumerate(writers)]
    by_writer = {}
    for sample in samples(write_dataset(tmp_path, rows)):
        by_writer.setdefault(sample.writer, set()).add(sample.split)
    assert set(by_writer) == set(names) and all(len(splits) == 1 for splits in by_writer.values())


def test_files_whose_names_leave_nothing_to_train_on_are_named(tmp_path):
    folder = dataset(tmp_path, 6)
    (folder / "labels.csv").rename(folder / "labels_test.csv")
    plan, _ = planned(folder)
    assert plan.problems == [
        f"No row is left to train on: all are of eval because of the names of {tmp_path.name}/labels_test.csv (eval). "
        "Rename what is to be trained on."
    ]
    assert not planned(dataset(tmp_path / "other", 6))[0].problems


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("0.png,ab,", "3 fields where the header has 2, and those beyond are empty: remove the delimiters (',') at the "
         "end of the row, or name their columns in the header"),
        ("0.png", "1 field where the header has 2"),
        ("0.png,a,b", "3 fields where the header has 2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["labels.csv", "labels_test.csv"])
def test_rows_that_are_all_malformed_are_said_to_be_that(tmp_path, name, row, why):
    (tmp_path / name).write_text(f"filename,text\n{row}\n{row}\n")
    assert planned(tmp_path)[0].problems == [
        f"No row is left to train on: 2 of 2 rows are malformed, such as row 2 of {tmp_path.name}/{name}: {why}."
    ]


@pytest.mark.parametrize(("named", "told"), [
    (lambda i: f"w{i % 20}" if i % 2 else "", "100 of 200 rows name no writer. Nothing keeps"),
    (lambda i: f"w{i % 20}" if i else " ", ""),
    (lambda i: f"w{i % 20}", None),
])  # fmt: skip
def test_rows_without_a_writer_among_others_are_told(tmp_path, named, told):
    plan, _ = planned(dataset(tmp_path, 20, 200, writer=named))
    assert [problem[: len(told)] for problem in plan.problems] == ([told] if told else [])
    assert any("1 of 200 rows name no writer" in note for note in plan.notes) == (told == ""), "a single one is a note"


def test_a_table_without_the_writers_of_its_siblings_is_named(tmp_path):
    folder = dataset(tmp_path / "data", 20, 100)
    rows = [f"{i}.png,ab,w{i % 20}" for i in range(100)]
    (folder / "more.csv").write_text("\n".join(["filename,text,scribe", *rows]))
    (problem,) = planned(folder)[0].problems
    assert problem.startswith("100 of 200 rows name no writer, such as those of data/more.csv, which has no column for")
    # What is for training only is not drawn: images that were reviewed name no writers.
    rows = [{"filename": "r.png", "text": "ab", "split": "train"}]
    reviewed = write_dataset(tmp_path / "reviewed", rows)
    (folder / "more.csv").unlink()
    data = DataConfig(paths=[str(folder), str(reviewed)])
    assert not make_plan(find_tables(data)[0], data).problems


def test_fractions_that_leave_little_to_train_on_are_named_and_no_writer(tmp_path):
    folder = dataset(tmp_path, 40, 400)
    plan, _ = planned(folder, eval_fraction=0.45, validation_fraction=0.2)
    left = Counter(s.split for s in samples(folder, eval_fraction=0.45, validation_fraction=0.2))["train"] / 400
    assert left < 0.5 and not plan.problems
    assert plan.notes == [
        f"data.eval_fraction and data.validation_fraction leave {left:.0%} of the images to train on."
    ]


def test_a_writer_with_most_images_outside_of_training_is_told(tmp_path):
    config = DataConfig()
    (large,) = [f"w{i}" for i in range(40) if draw(f"w{i}", config) < config.eval_fraction][:1]
    plan, _ = planned(dataset(tmp_path / "a", 20, 200, writer=lambda i: large if i < 150 else f"w{i % 20}"))
    (problem,) = plan.problems
    assert problem.startswith("One writer has 7") and "was drawn for eval" in problem and "split_salt" in problem
    assert large not in problem, "the model card tells problems, and goes wherever the model goes"
    (trained,) = in_training(1)
    other, _ = planned(dataset(tmp_path / "b", 20, 200, writer=lambda i: trained if i < 150 else f"w{i % 20}"))
    assert not other.problems
