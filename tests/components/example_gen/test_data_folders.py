"""What lies where in a data folder: images of other rows, splits by folder, tables and images that are not read."""

import os
import pickle
from collections import Counter

import pytest

from components.example_gen.dataset import Sample, examine_all
from components.example_gen.folders import find_tables
from components.example_gen.images import mend_notes
from components.example_gen.plan import make_plan
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError
from components.transform.settings import TransformConfig
from pipeline import cli
from tests.conftest import drawn_image, encode, write_dataset


def config(*folders, **settings):
    return DataConfig(paths=[str(folder) for folder in folders], **settings)


def read(*folders, **settings):
    return list(examine_all(config(*folders, **settings), TransformConfig()))


def notes(*folders, **settings):
    tables, found = find_tables(config(*folders, **settings))
    return [*found, *make_plan(tables, config(*folders, **settings)).notes]


def images(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(drawn_image()))


def labels(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["filename,text", *rows, ""]))
    return file


# Images of other rows.


@pytest.mark.parametrize("named", ["w2/000.png", "w2\\000.png", "w2/000", "w2/000.PNG", "/scans/w2/000.png"])
@pytest.mark.parametrize("own", ["w1/000.png", "w1\\000.png", "w1/000", "./w1/000.png"])
def test_no_row_gets_the_image_of_another_one(tmp_path, named, own):
    images(tmp_path, "w1/000.png")
    labels(tmp_path / "labels.csv", f"{named},Berta", f"{own},Anna")
    reject, sample = read(tmp_path)
    assert sample.text == "Anna" and reject.reason == "missing_file"
    assert f"w1/000.png has its name, but belongs to row 3 of {tmp_path.name}/labels.csv" in reject.detail


def test_no_row_of_a_table_gets_the_image_of_another_tables_row(tmp_path):
    images(tmp_path, "train/1.png", "test/1.png", "test/2.png", "test/other/3.png")
    labels(tmp_path / "train" / "metadata.csv", "1.png,one", "2.png,two", "3.png,three")
    labels(tmp_path / "test" / "metadata.csv", "1.png,eins", "2.png,zwei")
    found = [result.text if isinstance(result, Sample) else result.reason for result in read(tmp_path)]
    assert found == ["eins", "zwei", "one", "missing_file", "three"]


def test_images_in_other_folders_than_the_rows_say_are_counted(tmp_path, capsys):
    data = tmp_path / "data"
    images(data, *(f"scans/{i}.png" for i in range(30)))
    labels(data / "labels.csv", *(f"{'gone/' if i < 20 else 'scans/'}{i}.png,ab" for i in range(30)))
    assert Counter(sample.mend for sample in read(data)) == {"folder": 20, "": 10}
    assert cli.main(["check", "--data", str(data)]) == 0
    assert f"Note: {mend_notes({'folder': 20})[0]}" in capsys.readouterr().out
    assert (
        "another folder than the one that the row names, which does not exist: 20 images"
        in mend_notes({"folder": 20})[0]
    )


# Splits by folder.


def splits(folder):
    return {sample.id.partition("/")[2]: sample.split for sample in read(folder) if isinstance(sample, Sample)}


def published(folder, *names, header="file_name,text"):
    for name in names:
        images(folder, f"{name}/{name}.png")
        (folder / name / "metadata.csv").write_text(f"{header}\n{name}.png,ab{',' * (header.count(',') - 1)}\n")
    return folder


def test_folders_named_as_splits_give_them(tmp_path):
    folder = published(tmp_path / "train", "train", "validation", "test_v2")
    assert splits(folder) == {
        "train/train.png": "train", "validation/validation.png": "validation", "test_v2/test_v2.png": "eval"
    }  # fmt: skip
    assert notes(folder)[0] == (
        f"{folder}: the names of its folders give the splits: test_v2 (eval), train (train), validation (validation)."
    )


def problems(*folders, **settings):
    tables, _ = find_tables(config(*folders, **settings))
    return make_plan(tables, config(*folders, **settings)).problems


def test_data_folders_with_the_names_of_splits_give_none_and_that_is_said(tmp_path):
    above = published(tmp_path / "names", "train", "test")
    assert not problems(above)
    (problem,) = problems(above / "train", above / "test")
    assert problem.startswith("The data folders test (eval), train (train), have the names of splits and give none")
    assert "Name the folder above them with --data instead, or the split in a column `split`" in problem
    assert not problems(above / "train", above / "test", split_column="none")
    assert not problems(above / "train", published(tmp_path / "more", "letters") / "letters")


def test_folders_of_images_with_the_names_of_splits_give_none_and_that_is_said(tmp_path):
    names = ("train/Anna/1.png", "train/Bert/2.png", "test/Carla/3.png")
    images(tmp_path, *names)
    labels(tmp_path / "labels.csv", *(f"{name},ab" for name in names))
    (problem,) = problems(tmp_path)
    assert f"of images of {tmp_path.name}/labels.csv, test (eval), train (train), have the names" in problem
    (tmp_path / "labels.csv").write_text("\n".join(["filename,text,split", *(f"{name},ab,train" for name in names)]))
    assert not problems(tmp_path)


# Images that several rows name.


def test_images_that_several_rows_name_are_told(tmp_path):
    images(tmp_path, *(f"images/{i}.png" for i in range(5)))
    labels(tmp_path / "labels.csv", *(f"images/{i}.png,ab" for i in range(5)))
    copy = tmp_path / "labels (1).csv"
    labels(copy, "images/0.png,ab", "images/0.png,ab", "images/1.png,UNREADABLE", "images/4.png, ab ", ",", "x,y,z")
    assert not problems(tmp_path)
    told = "2 images are named by several rows, such as row 2 of {0}/labels (1).csv and row 3 of {0}/labels (1).csv:"
    assert any(note.startswith(told.format(tmp_path.name)) for note in notes(tmp_path))
    labels(copy, "./images/0.png,Ab", "images/4.png,ab")
    (problem,) = problems(tmp_path)
    assert problem.startswith("2 images are named by several rows, 1 of them with different texts, such as row 2 of ")
    copy.unlink()
    assert not problems(tmp_path) and not any("several rows" in note for note in notes(tmp_path))


def test_a_data_folder_that_is_called_train_says_nothing(tmp_path):
    rows = [{"filename": f"{i}.png", "text": "ab"} for i in range(60)]
    folder = write_dataset(tmp_path / "train", rows)
    assert set(splits(folder).values()) == {"train", "validation", "eval"}
    assert not notes(folder)


@pytest.mark.parametrize(
    ("names", "header", "told"),
    [
        (("test", "letters"), "file_name,text", True),
        (("train", "training"), "file_name,text", True),
        (("letters", "forms"), "file_name,text", False),
        (("test", "letters"), "file_name,text,split", False),
    ],
)
def test_folders_of_one_split_give_none_and_that_is_said(tmp_path, names, header, told):
    folder = published(tmp_path / "data", *names, header=header)
    tables, _ = find_tables(config(folder))
    assert [table.default_split for table in tables] == [None, None]
    assert any("the names of its folders give no splits: " in note for note in notes(folder)) == told


def test_names_of_tables_count_before_those_of_folders(tmp_path):
    folder = published(tmp_path / "data", "train", "test")
    (folder / "test" / "metadata.csv").rename(folder / "test" / "train.csv")
    tables, found = find_tables(config(folder))
    assert [table.default_split for table in tables] == ["train", None]
    assert "the names of its folders give no splits: test (eval), train (train)" in found[0]


# Tables that are met twice, or not at all.


def test_a_table_of_two_data_folders_is_refused(tmp_path):
    inner = write_dataset(tmp_path / "data" / "inner", [{"filename": "a.png", "text": "ab"}])
    with pytest.raises(DatasetError, match=rf"lies in two data folders: .* --data {tmp_path}/data or --data {inner}\."):
        read(tmp_path / "data", inner)
    (tmp_path / "link").symlink_to(inner)
    with pytest.raises(DatasetError, match=rf"two data folders, as {tmp_path}/link/labels.csv: .* --data {inner} or"):
        read(inner, tmp_path / "link")
    (inner / "again.csv").symlink_to("labels.csv")
    with pytest.raises(DatasetError, match=r"again\.csv and .*labels\.csv are the same file.*Remove one of them"):
        read(inner)


def test_data_folders_in_each_other_with_tables_of_their_own_are_read(tmp_path):
    outer = write_dataset(tmp_path / "data", [{"filename": "a.png", "text": "ab"}])
    inner = write_dataset(outer / "inner", [{"filename": "b.png", "text": "cd"}])
    assert [sample.text for sample in read(outer, inner)] == ["ab", "cd"]


def test_tables_of_folders_below_that_are_not_read_are_noted(tmp_path):
    folder = write_dataset(tmp_path / "data", [{"filename": "a.png", "text": "ab"}])
    write_dataset(folder / "more", [{"filename": "b.png", "text": "cd"}])
    assert [sample.text for sample in read(folder)] == ["ab"]
    note = next(note for note in notes(folder) if "not read" in note)
    assert note.startswith(f"{folder}: not read 1 table of the folders in it, such as {folder}/more/labels.csv, since")
    assert "another --data" in note


def test_tables_of_folders_below_are_read_where_no_table_of_the_folder_has_labels(tmp_path):
    write_dataset(tmp_path / "more", [{"filename": "b.png", "text": "cd"}])
    (tmp_path / "notes.csv").write_text("day,note\n1,none\n")
    assert [sample.text for sample in read(tmp_path)] == ["cd"]
    assert any("notes.csv has no column for image" in note for note in notes(tmp_path))
    (tmp_path / "more" / "labels.csv").write_text("day,note\n")
    with pytest.raises(DatasetError, match=r"/notes\.csv has no column .*/more/labels\.csv has no column"):
        read(tmp_path)


def test_a_folder_below_that_cannot_be_read_is_named(tmp_path):
    deep = tmp_path
    while len(str(deep)) < 3900:
        deep /= "d" * 99
    deep.mkdir(parents=True)
    descriptor = os.open(deep, os.O_RDONLY)
    os.mkdir("images" * 40, dir_fd=descriptor)
    os.close(descriptor)
    with pytest.raises(DatasetError, match=rf"The data folder {deep} cannot be read: .*\({deep}/(images)+\)\.$"):
        read(deep)


# Images that no row names.


def test_images_that_no_row_names_are_noted(tmp_path):
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": "ab"} for i in range(4)])
    images(folder, "w2/0.png", "w2/1.png", ".cache/2.png", "w2/._3.png", "5.png")
    expected = f"{folder}: 3 images are named by no row, such as 5.png, and are not used. If they are to be, add rows "
    assert notes(folder)[1:] == [f"{expected}for them."]
    os.remove(folder / "w2" / "0.png")
    os.remove(folder / "5.png")
    assert "1 image is named by no row, such as w2/1.png, and is not used" in notes(folder)[-1]


@pytest.mark.parametrize("named", ["scans/Zoë.png", "Zoë.png", "Zoë", "scans\\Zoë.png", "ZOË.PNG", "gone/scans/Zoë"])
def test_an_image_that_a_row_names_in_any_way_is_named(tmp_path, named):
    images(tmp_path, "scans/Zoe\u0308.png")
    labels(tmp_path / "labels.csv", f"{named},Anna")
    assert not notes(tmp_path)
    assert [sample.text for sample in read(tmp_path)] == ["Anna"]


def test_an_image_of_a_malformed_row_is_named(tmp_path):
    images(tmp_path, "a.png", "b.png")
    labels(tmp_path / "labels.csv", "a.png,b,c", 'b.png,"a"b')
    assert not notes(tmp_path)


def test_what_workers_get_does_not_grow_with_the_square_of_the_tables(tmp_path):
    sizes = []
    for count in (20, 40):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"page{number:03}.csv").write_text("filename,text\na.png,a\n")
        tables, _ = find_tables(DataConfig(paths=[str(folder)]))
        sizes.append((len(pickle.dumps(tables[0])), sum(len(pickle.dumps(table)) for table in tables)))
    (one, all_), (one_of_more, all_of_more) = sizes
    assert one_of_more < 1.1 * one and all_of_more < 2.2 * all_
