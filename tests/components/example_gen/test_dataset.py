"""The dataset contract: what is read, from where, and what happens to every row that cannot be used."""

import errno
import os
import unicodedata
import uuid

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from components.common import storage
from components.example_gen import dataset
from components.example_gen.dataset import Sample
from components.example_gen.fingerprint import fingerprint
from components.example_gen.folders import find, find_tables
from components.example_gen.images import _files
from components.example_gen.measures import describe
from components.example_gen.outages import StoreError
from components.example_gen.rejects import Reject
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLITS, assign_split
from components.example_gen.table import DatasetError
from components.transform.settings import TransformConfig
from pipeline import cli
from tests.conftest import drawn_image, encode, write_dataset


def read(*folders, transform=None, **settings):
    data = DataConfig(paths=[str(folder) for folder in folders], **settings)
    return list(dataset.examine_all(data, transform or TransformConfig()))


def rejected(*folders, **settings):
    return {result.image: result.reason for result in read(*folders, **settings) if isinstance(result, Reject)}


@pytest.mark.parametrize("image", ["filename", "file_name", "FILENAME", "image", "image_path", "path"])
@pytest.mark.parametrize("text", ["text", "label", "IDENTITY", "transcription"])
def test_finds_columns_by_their_common_names(tmp_path, image, text):
    write_dataset(tmp_path, [{image: "a.png", text: "Anna"}])
    (sample,) = read(tmp_path)
    assert (sample.text, sample.id) == ("Anna", f"{tmp_path.name}/a.png")


def test_columns_can_be_named(tmp_path):
    write_dataset(tmp_path, [{"scan": "a.png", "says": "Anna", "hand": "w1", "text": "wrong"}])
    (sample,) = read(tmp_path, image_column="scan", text_column="says", writer_column="hand")
    assert (sample.text, sample.writer) == ("Anna", "w1")
    with pytest.raises(DatasetError, match=r"no column 'hands'.*scan, says, hand"):
        read(tmp_path, image_column="scan", text_column="says", writer_column="hands")


def test_a_named_column_is_that_of_the_tables_that_have_it(tmp_path):
    ours, labelled = tmp_path / "ours", tmp_path / "labelled"
    write_dataset(ours, [{"filename": "a.png", "text": "wrong", "Transkription": "Anna", "writer_id": "w1"}])
    write_dataset(labelled, [{"filename": "b.png", "text": "Berta", "split": "train"}])
    settings = {"text_column": "transkription", "writer_column": "writer_id"}
    found = [(sample.text, sample.writer) for sample in read(ours, labelled, **settings)]
    assert found == [("Anna", "w1"), ("Berta", "")]
    (note,) = find_tables(DataConfig(paths=[str(ours), str(labelled)], **settings))[1]
    told = "labelled/labels.csv: there is no column 'transkription' (data.text_column); `text` is taken instead."
    assert note == told
    with pytest.raises(DatasetError, match=r"no column 'writerid' \(data.writer_column\), nor has any other table"):
        read(ours, labelled, writer_column="writerid")
    alone = write_dataset(tmp_path / "alone", [{"filename": "a.png", "says_": "Anna"}])
    with pytest.raises(DatasetError, match=r"no column 'says' \(data.text_column\) nor one of the .*: filename, says_"):
        read(alone, text_column="says")


def test_columns_that_may_be_meant_instead_are_told(tmp_path):
    row = {"image": "a.png", "label": "0", "transcription": "Anna", "Writer ID": "w1", "Subset": "train"}
    folder = write_dataset(tmp_path, [row])
    (folder / "more.csv").write_bytes((folder / "labels.csv").read_bytes())
    name = f"{tmp_path.name}/labels.csv and 1 more: "
    assert find_tables(DataConfig(paths=[str(folder)]))[1] == [
        f"{name}`label` is taken as the column for text, not `transcription`. data.text_column names another.",
        f"{name}the column `Writer ID` is not used. If it names the writer, set data.writer_column=writer_id.",
        f"{name}the column `Subset` is not used. If it names the split, set data.split_column=subset.",
    ]
    settings = {"text_column": "transcription", "writer_column": "none", "split_column": "subset"}
    assert not find_tables(DataConfig(paths=[str(folder)], **settings))[1]
    assert read(folder, **settings)[0].text == "Anna"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_byte_order_marks(tmp_path, delimiter, encoding):
    (tmp_path / "a.png").write_bytes(encode(drawn_image()))
    (tmp_path / "labels.csv").write_text(f"filename{delimiter}text\na.png{delimiter}Zoë\n", encoding=encoding)
    (sample,) = read(tmp_path)
    assert sample.text == "Zoë"


def test_labels_stay_text_and_quotes_are_handled(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(encode(drawn_image(400)))
    (tmp_path / "labels.csv").write_text('filename,text\na.png,7647\nb.png,"a, b"\nc.png,"say ""hi"""\nd.png,007\n')
    assert [sample.text for sample in read(tmp_path)] == ["7647", "a, b", 'say "hi"', "007"]


def test_labels_are_normalised_to_nfc(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": unicodedata.normalize("NFD", " Zoé ")}])
    assert read(tmp_path)[0].text == "Zoé"


def test_kaggle_layout(tmp_path):
    for split, name in (("train", "train_v2"), ("validation", "validation_v2"), ("test", "test_v2")):
        image = f"{split.upper()}_0001.jpg"
        write_dataset(tmp_path / "tmp", [{"FILENAME": image, "IDENTITY": split}], f"written_name_{name}.csv")
        (tmp_path / f"written_name_{name}.csv").write_bytes(
            (tmp_path / "tmp" / f"written_name_{name}.csv").read_bytes()
        )
        (tmp_path / name / split).mkdir(parents=True)
        (tmp_path / "tmp" / image).rename(tmp_path / name / split / image)
        (tmp_path / "tmp" / f"written_name_{name}.csv").unlink()
    assert {sample.text: sample.split for sample in read(tmp_path)} == {
        "train": "train", "validation": "validation", "test": "eval",
    }  # fmt: skip


def test_named_validation_is_evaluated_where_there_is_no_test(tmp_path):
    rows = [{"filename": f"{i}.png", "text": "ab", "split": "train" if i < 80 else "val"} for i in range(100)]
    write_dataset(tmp_path, rows, "labels_train.csv")
    splits = {s.id.rsplit("/", 1)[-1]: s.split for s in read(tmp_path)}
    # The column wins over the file's name.
    assert {splits[f"{i}.png"] for i in range(80, 100)} == {"eval"}


def test_split_column_is_checked(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "ab", "split": "holdout"}])
    assert rejected(tmp_path) == {"a.png": "unknown_split"}


def test_every_dirty_row_has_its_reason(tmp_path):
    rows = {
        "missing.png": "ab", "empty.png": " ", "placeholder.png": "UNREADABLE", "cut.png": "ab", "cut.jpg": "ab",
        "zero.png": "ab", "text.png": "ab", "long.png": "a" * 40, "tab.png": "a\tb", "fine.png": "ab",
        "../out.png": "ab", "huge.png": "ab",
    }  # fmt: skip
    folder = write_dataset(tmp_path / "data", [{"filename": k, "text": v} for k, v in rows.items()])
    (folder / "missing.png").unlink()
    (folder / "cut.png").write_bytes(encode(drawn_image())[:-30])
    (folder / "cut.jpg").write_bytes(encode(drawn_image(), ".jpg")[:-30])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_bytes(b"not an image at all")
    (folder / "huge.png").write_bytes(encode(drawn_image(1200, 1000)))
    assert rejected(folder, max_megapixels=1) == {
        "missing.png": "missing_file", "empty.png": "empty_label", "placeholder.png": "placeholder_label",
        "cut.png": "image_truncated", "cut.jpg": "image_truncated", "zero.png": "image_empty",
        "text.png": "not_an_image", "long.png": "label_too_long", "tab.png": "control_character",
        "../out.png": "outside_folder", "huge.png": "image_too_large",
    }  # fmt: skip


def test_fixed_alphabet_rejects_other_characters(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "abc"}, {"filename": "b.png", "text": "abX"}])
    assert rejected(tmp_path, alphabet="abc") == {"b.png": "unknown_character"}


def test_rows_with_too_few_fields_are_rejected_by_line(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(drawn_image()))
    (tmp_path / "labels.csv").write_text("filename,text,writer\na.png,Anna,1\na.png\n\na.png,b,c,d\n")
    results = read(tmp_path)
    assert [(r.line, r.reason) for r in results if isinstance(r, Reject)] == [
        (3, "malformed_row"),
        (5, "malformed_row"),
    ]


def test_images_are_found_below_the_folder_by_name(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "ab"}, {"filename": "b.png", "text": "ab"}])
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a.png").rename(tmp_path / "x" / "a.png")
    (tmp_path / "x" / "b.png").write_bytes((tmp_path / "b.png").read_bytes())
    (tmp_path / "b.png").rename(tmp_path / "y" / "b.png")
    _files.cache_clear()
    results = read(tmp_path)
    assert results[0].id == f"{tmp_path.name}/x/a.png"
    assert results[1].reason == "ambiguous_file"


def test_a_bucket_is_listed_once_whatever_its_rows_name(tmp_path, monkeypatch):
    listed, find = [], MemoryFileSystem.find
    names = ["a.png", unicodedata.normalize("NFD", "ä.png"), "x/c.png", "x/d.png", "y/d.png"]
    write_dataset(tmp_path, [{"filename": name, "text": "ab"} for name in names])
    (tmp_path / "labels.csv").write_text("filename,text\na.png,ab\nä.png,ab\nC.PNG,ab\nd,ab\ngone.png,ab\n", "utf-8")
    bucket = f"memory://{uuid.uuid4().hex}/data"
    storage.copy_tree(str(tmp_path), bucket)
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *a, **k: listed.append(a) or find(*a, **k))
    results = list(dataset.examine_all(DataConfig(paths=[bucket]), TransformConfig()))
    found = [r.reason if isinstance(r, Reject) else r.id for r in results]
    assert found == ["data/a.png", f"data/{names[1]}", "data/x/c.png", "ambiguous_file", "missing_file"]
    assert len(listed) == 1


def test_images_that_the_graph_cannot_read_are_converted(tmp_path):
    import cv2

    write_dataset(tmp_path, [{"filename": "a.bmp", "text": "ab"}, {"filename": "b.png", "text": "ab"}])
    deep = (drawn_image(60, 40).astype("uint16")) << 8
    (tmp_path / "b.png").write_bytes(encode(deep))
    samples = read(tmp_path)
    assert len(samples) == 2
    for sample in samples:
        assert sample.image.startswith(b"\x89PNG")
        assert cv2.imdecode(__import__("numpy").frombuffer(sample.image, "u1"), cv2.IMREAD_UNCHANGED).dtype == "uint8"


def test_several_folders_keep_apart(tmp_path):
    for name in ("one", "two"):
        write_dataset(tmp_path / name, [{"filename": "a.png", "text": name}])
    assert {(s.id, s.source) for s in read(tmp_path / "one", tmp_path / "two")} == {
        ("one/a.png", "one"), ("two/a.png", "two"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"name,words and more\n", "no column for image"),
        (b"filename,textual\n", "no column for text"),
        ("filename,text\na.png,Zoë\n".encode("latin-1"), "not utf-8 text"),
    ],
)
def test_unusable_files_are_named(tmp_path, content, message):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read(tmp_path)
    assert "labels.csv" in str(caught.value)


def test_unusable_folders_are_named(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no \.csv or \.tsv"):
        read(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="is a file"):
        read(tmp_path / "file")


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ESTALE, StoreError), (errno.EIO, StoreError), (errno.EACCES, DatasetError)]
)
def test_a_file_system_that_fails_is_no_wrong_data(tmp_path, monkeypatch, number, kind):
    def fail(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    folder = write_dataset(tmp_path / "data", [{"filename": "a.png", "text": "ab"}])
    for function in (storage.open_file, storage.entries, storage.walk):
        with monkeypatch.context() as patch, pytest.raises(DatasetError, match=os.strerror(number)) as caught:
            patch.setattr(storage, function.__name__, fail)
            fingerprint(find_tables(DataConfig(paths=[str(folder)]))[0])
        assert type(caught.value) is kind
    with monkeypatch.context() as patch, pytest.raises(DatasetError, match=os.strerror(number)) as caught:
        patch.setattr(os, "stat", fail)  # which os.path.isdir takes for a missing folder
        find_tables(DataConfig(paths=[str(folder)]))
    assert type(caught.value) is kind


def test_an_image_of_a_file_system_that_fails_is_not_rejected(tmp_path, monkeypatch):
    """A bad sector is of one file; a network file system that is gone is not."""
    folder = write_dataset(tmp_path / "data", [{"filename": "a.png", "text": "ab"}])

    def results(number):
        def fail(path, *_):
            raise OSError(number, os.strerror(number), path)

        monkeypatch.setattr(storage, "read", fail)
        return read(folder)

    assert [result.reason for result in results(errno.EIO)] == ["unreadable_file"]
    with pytest.raises(StoreError, match="Its store, disk or network fails"):
        results(errno.ESTALE)


def test_other_csv_files_are_noted_not_read(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "ab"}])
    (tmp_path / "prices.csv").write_text("item,price\n")
    tables, notes = find_tables(DataConfig(paths=[str(tmp_path)]))
    assert len(tables) == 1
    assert "prices.csv has no column for image" in notes[0]
    assert not find(DataConfig(paths=[str(tmp_path)])).problems


def test_a_table_whose_texts_have_another_header_is_a_problem(tmp_path, capsys):
    folder = write_dataset(tmp_path / "data", [{"filename": "a.png", "text": "ab"}])
    (folder / "november.csv").write_text("filename,transkription\nb.png,ab\n")
    data = DataConfig(paths=[str(folder)])
    (problem,) = find(data).problems
    assert problem.startswith("data/november.csv names images and has no column for their texts, so its rows are left")
    assert "Its columns are: filename, transkription. If" in problem and problem in find_tables(data)[1]
    cli.main(["check", "--data", str(folder)])
    assert f"Problem: {problem}" in capsys.readouterr().out


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=40, unique=True))
def test_a_writer_stays_in_its_split_whatever_else_there_is(writers):
    config = DataConfig()
    alone = {w: assign_split(None, w, frozenset(), config) for w in writers}
    again = {w: assign_split(None, w, frozenset(), config) for w in reversed(writers)}
    assert alone == again
    assert set(alone.values()) <= set(SPLITS)


def test_split_shares_follow_the_fractions():
    config = DataConfig(validation_fraction=0.2, eval_fraction=0.1)
    splits = [assign_split(None, str(i), frozenset(), config) for i in range(4000)]
    assert splits.count("validation") / 4000 == pytest.approx(0.2, abs=0.03)
    assert splits.count("eval") / 4000 == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("name", ["train", "validation", "eval", None])
@pytest.mark.parametrize("others", [(), ("train",), ("train", "validation"), ("train", "eval"), SPLITS])
def test_training_never_gets_what_is_named_otherwise(name, others):
    given_splits = frozenset(others) | ({name} if name else set())
    for i in range(50):
        split = assign_split(name, str(i), given_splits, DataConfig())
        assert split in SPLITS
        if name in ("validation", "eval"):
            assert split != "train"


def test_known_splits_do_not_change():
    # A change of the rule would mix training and evaluation images of every existing dataset.
    known = {"4": "eval", "8": "eval", "15": "train", "16": "train", "23": "train", "42": "eval", "11": "validation"}
    assert {w: assign_split(None, w, frozenset(), DataConfig()) for w in known} == known


def test_fingerprint_notices_a_replaced_image(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "ab"}])
    tables, _ = find_tables(DataConfig(paths=[str(tmp_path)]))
    before = fingerprint(tables)
    assert fingerprint(tables) == before
    (tmp_path / "a.png").write_bytes(encode(drawn_image(91, 40)))
    assert fingerprint(tables) != before


def test_fingerprint_notices_a_changed_label(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "ab"}])
    tables, _ = find_tables(DataConfig(paths=[str(tmp_path)]))
    before = fingerprint(tables)
    write_dataset(tmp_path, [{"filename": "a.png", "text": "ac"}])
    assert fingerprint(tables) != before


def leave_traces_of_a_run(workspace):
    """Files as a run leaves them: tables and images that are none of the data's."""
    (workspace / "pipeline" / "Trainer" / "model_run" / "8").mkdir(parents=True)
    (workspace / "metadata.db").touch()
    (workspace / "pipeline" / "Trainer" / "model_run" / "8" / "augmented.png").write_bytes(encode(drawn_image()))
    (workspace / "pipeline" / "a.png").write_bytes(encode(drawn_image()))
    write_dataset(workspace, [{"image": "b.png", "text": "cd"}], "rejects.csv")


@pytest.mark.parametrize("labels", ["", "names"])
def test_a_workspace_within_the_data_is_no_data(tmp_path, labels):
    # `htr run --data .` writes into ./workspace: the same command again must find the same data.
    rows = [{"filename": f"{name}.png", "text": "ab"} for name in "abc"] + [{"filename": "gone/a.png", "text": "ab"}]
    write_dataset(tmp_path / labels, rows[:3])
    write_dataset(tmp_path / labels, rows)
    (tmp_path / labels / "gone" / "a.png").unlink()
    config = DataConfig(paths=[str(tmp_path)])
    before, first = fingerprint(find_tables(config)[0]), read(tmp_path)
    leave_traces_of_a_run(tmp_path / "workspace")
    _files.cache_clear()
    tables, notes = find_tables(config)
    assert fingerprint(tables) == before and not notes
    assert read(tmp_path) == first and len(first) == 4
    with pytest.raises(DatasetError, match="is the workspace of earlier runs"):
        find_tables(DataConfig(paths=[str(tmp_path / "workspace")]))


def test_statistics_see_inverted_and_blurred_images():
    import cv2

    page = drawn_image(200, 64)
    normal, inverted, blurred = describe([page, 255 - page, cv2.GaussianBlur(page, (0, 0), 3)])
    assert inverted["ink_share"] > 0.5 > normal["ink_share"]
    assert blurred["sharpness"] < normal["sharpness"] / 2


def test_a_large_canvas_with_little_ink_is_not_a_hundred_times_as_sharp():
    page = drawn_image(200, 64)
    canvas = np.full((640, 2000), page.max(), np.uint8)
    canvas[320:384, 900:1100] = page
    small, large = describe([page, canvas])
    assert large["sharpness"] < 3 * small["sharpness"]


def test_a_split_column_that_names_all_splits_is_kept(tmp_path):
    names = {"train": "train", "validation": "validation", "test": "eval"}
    rows = [{"filename": f"{i}.png", "text": "ab", "split": name} for i, name in enumerate([*names] * 20)]
    results = read(write_dataset(tmp_path, rows))
    assert [sample.split for sample in results] == [names[row["split"]] for row in rows]


def test_folders_of_the_same_name_are_told_apart_and_keep_their_splits(tmp_path):
    rows = [{"filename": f"{i}.png", "text": "ab"} for i in range(30)] + [{"filename": "30.png", "text": ""}]
    folders = [write_dataset(tmp_path / year / "names", rows) for year in ("2023", "2024")]
    results = read(*folders)
    assert len({r.id for r in results if isinstance(r, Sample)}) == 60
    assert {r.source for r in results if isinstance(r, Sample)} == {"2023/names", "2024/names"}
    assert [r.table for r in results if isinstance(r, Reject)] == ["2023/names/labels.csv", "2024/names/labels.csv"]
    alone = [r for r in read(folders[0]) if isinstance(r, Sample)]
    assert alone[0].id == "names/0.png"
    assert [r.split for r in alone] * 2 == [r.split for r in results if isinstance(r, Sample)]
    with pytest.raises(DatasetError, match="is given 2 times"):
        read(folders[0], folders[0] / ".")


def test_settings_are_composed_as_labels_are(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Zoé")
    folder = write_dataset(tmp_path, [{"filename": "a.png", "text": "Zoé"}, {"filename": "b.png", "text": decomposed}])
    config = DataConfig(alphabet=decomposed)
    assert config.alphabet == "Zoé" and DataConfig().alphabet is None
    assert [sample.text for sample in read(folder, alphabet=decomposed)] == ["Zoé", "Zoé"]
    assert [reject.reason for reject in read(folder, placeholders=[decomposed])] == ["placeholder_label"] * 2


def test_a_nul_is_reported_as_one(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "Anna"}])
    with open(tmp_path / "labels.csv", "ab") as file:
        file.write(b"a.png,Ot\0to\n")
    [detail] = [result.detail for result in read(tmp_path) if isinstance(result, Reject)]
    assert detail == r"the label holds '\x00'"
