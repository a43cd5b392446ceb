"""Label files and image names as people and programs write them."""

import os
import re
from pathlib import Path

import pytest

from components.example_gen.dataset import Sample, examine_all
from components.example_gen.folders import find_tables
from components.example_gen.header import IMAGE_COLUMNS, TEXT_COLUMNS
from components.example_gen.rejects import as_csv
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError
from components.transform.settings import TransformConfig
from htr_client import RequestLog, Timings, Transcription
from htr_client.files import SUFFIXES
from htr_client.output import ResultWriter
from pipeline import cli
from tests.conftest import drawn_image, encode, write_dataset


def read(folder, **settings):
    return list(examine_all(DataConfig(paths=[str(folder)], **settings), TransformConfig(preset="line")))


def one_image(folder, content, name="a.png"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(encode(drawn_image(300, 48), name[-4:].lower()))
    (folder / "labels.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.mark.parametrize("image", IMAGE_COLUMNS)
@pytest.mark.parametrize("text", TEXT_COLUMNS)
def test_columns_of_public_datasets_are_known(tmp_path, image, text):
    (sample,) = read(one_image(tmp_path, f"{image},{text}\na.png,Anna\n"))
    assert sample.text == "Anna"


@pytest.mark.parametrize("header", ["File Name,Ground Truth", "image-path,GROUND_TRUTH", " FileName , Text "])
def test_columns_are_known_however_they_are_spelt(tmp_path, header):
    (sample,) = read(one_image(tmp_path, f"{header}\na.png,Anna\n"))
    assert sample.text == "Anna"


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\nfilename;text\na.png;Anna\n",
        "SEP=;\r\nfilename;text\r\na.png;Anna\r\n",
        '"sep=;"\nfilename;text\na.png;Anna\n',
        "sep=\t\nfilename\ttext\na.png\tAnna\n",
        "sep=#\nfilename#text\na.png#Anna\n",
        "\ufeffsep=;\r\nfilename;text\r\na.png;Anna\r\n",
        "sep=\r\nfilename,text\r\na.png,Anna\r\n",
        "\n \n\nfilename,text\na.png,Anna\n",
        ";;\n;\nfilename;text\na.png;Anna\n",
        "\r\n,,\r\nfilename,text\r\n\r\na.png,Anna\r\n",
        'filename, text\n"a.png", "Anna"\n',
        '"filename" , "text"\n "a.png" , "Anna" \n',
        'filename\ttext\na.png\t "Anna"\n',
    ],
)
def test_what_programs_write_around_a_table(tmp_path, content):
    (sample,) = read(one_image(tmp_path, content))
    assert sample.text == "Anna"


def test_lines_are_counted_from_the_beginning_of_the_file(tmp_path):
    (reject,) = read(one_image(tmp_path, "sep=;\n\nfilename;text\n\nb.png;Anna\n"))
    assert reject.line == 5


def test_a_comma_in_quotes_after_a_space(tmp_path):
    (sample,) = read(one_image(tmp_path, 'filename,text\n"a.png", "Smith, John"\n'))
    assert sample.text == "Smith, John"


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_rows_between_a_quotation_mark_and_another_rows_are_not_lost(tmp_path, delimiter):
    rows = ["filename,text", '1.png,"Come in', "2.png,he said", '3.png,and sat down."', "4.png,Anna"]
    folder = one_image(tmp_path, "\n".join(rows).replace(",", delimiter))
    with pytest.raises(DatasetError, match="lines 2 to 4: a quotation mark is opened in one row and closed in"):
        read(folder)


def test_a_label_of_several_lines_is_one_row(tmp_path):
    (reject,) = read(one_image(tmp_path, 'filename,text\na.png,"Dear Sir,\nI write, in haste,\nfrom b.png"\n'))
    assert reject.reason == "control_character"


def test_tables_of_the_product_are_no_labels(tmp_path):
    folder = one_image(tmp_path, "filename,text\na.png,Anna\n")
    (folder / "texts.csv").write_text("path,text,confidence\na.png,Anne,0.4\n")
    (folder / "rejects.csv").write_text(as_csv([]))
    (sample,) = read(folder)
    assert sample.text == "Anna"
    _, notes = find_tables(DataConfig(paths=[str(folder)]))
    assert "`htr check --rejects`" in notes[0] and "`htr transcribe`" in notes[1] and "its last column" in notes[1]


def test_what_commands_print_as_csv_is_no_label(tmp_path):
    folder = one_image(tmp_path, "filename,text\na.png,Anna\n")
    with open(folder / "words.csv", "w", encoding="utf-8", newline="") as file:
        ResultWriter("csv", file)(
            str(folder / "a.png"), Transcription("Anne", 0.9, (), (), "htr", 7, None, Timings(0, 0, 0))
        )
    (sample,) = read(folder)
    assert sample.text == "Anna"
    (note,) = find_tables(DataConfig(paths=[str(folder)]))[1]
    assert "words.csv is a table of `htr read`, `htr predict` or `htr-client`, not of labels" in note
    (folder / "labels.csv").unlink()
    with pytest.raises(DatasetError, match="not of labels"):
        read(folder)


def test_texts_of_a_log_of_requests_are_a_models(tmp_path):
    log = RequestLog(tmp_path, rate=1)
    log.offer(encode(drawn_image()), "Anna", 0.5, "htr", 7)
    log.close()
    (sample,) = read(tmp_path)
    assert (sample.text, sample.by_model) == ("Anna", True)


@pytest.mark.parametrize("told", ["cp1250", "utf-16-le"])
def test_an_encoding_is_for_the_tables_that_are_not_utf8(tmp_path, told):
    found = []
    for name, text, encoding in (("a", "Łódź", told), ("b", "qualifiés à Łódź", "utf-8"), ("c", "plain", "ascii")):
        found.append(str(one_image(tmp_path / name, f"filename,text\na.png,{text}\n".encode(encoding))))
    data = DataConfig(paths=found, encoding=told)
    samples = list(examine_all(data, TransformConfig(preset="line")))
    assert [sample.text for sample in samples] == ["Łódź", "qualifiés à Łódź", "plain"]


def test_quotes_that_belong_to_a_label_stay(tmp_path):
    (sample,) = read(one_image(tmp_path, 'filename,text\na.png,"say ""hi"", John"\n'))
    assert sample.text == 'say "hi", John'


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("a.png,Anna\n", {}, r"like data \(`a\.png`\): there is no header.*2 columns, such as `filename,text`"),
        ("17,Anna,w1\n", {}, r"like data \(`17`\): there is no header.*its 3 columns"),
        ("a.png,Anna\n", {"text_column": "text"}, r"cannot be read.*there is no header"),
        (b"PK\x03\x04" + bytes(90), {}, r"an Excel workbook or another zip archive, not a CSV.*\"CSV UTF-8\""),
        (b"\xd0\xcf\x11\xe0" + bytes(90), {}, "an Excel workbook"),
        ("sep=;\n", {}, "is empty"),
        ("word one two.png\nb.png\n", {}, r"like data \(`word one two\.png`\): there is no header"),
        ("a.png Anna\n", {}, "has one column, `a.png Anna`: comma, semicolon, tab or | separate"),
        ("Labels of 2024\nfilename,text\na.png,Anna\n", {}, "has no column for image"),
        ("filename text\na.png Anna\n", {}, "has one column, `filename text`: comma, semicolon, tab or | separate"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, settings, message):
    with pytest.raises(DatasetError, match=message):
        read(one_image(tmp_path, content), **settings)


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("cp1252", "`0042.png,été` in cp1252 or "), ("mac_roman", "`0042.png,été` in mac_roman")],
)
def test_the_line_that_is_no_utf8_is_shown_in_other_encodings(tmp_path, encoding, told):
    rows = "".join(f"{i:04d}.png,Anna\r" for i in range(3000))  # more than is read at once
    (tmp_path / "labels.csv").write_bytes(f"filename,text\r{rows}0042.png,été\r".encode(encoding))
    with pytest.raises(DatasetError, match="line 3002 reads ") as found:
        read(tmp_path)
    assert told in str(found.value) and "position" not in str(found.value)


@pytest.mark.parametrize(
    ("encoding", "labels"),
    [
        ("cp1250", "Łódź żółw Kraków święto"),
        ("cp1250", "tükörfúrógép árvíztűrő"),  # the first is the same in cp1252
        ("cp1251", "Привет Москва щука"),
        ("cp1253", "Αθήνα λόγος Σωκράτης"),
        ("cp1254", "İstanbul şeker ığdır"),
        ("gb18030", "北京 上海 你好"),
        ("cp932", "東京 大阪 ありがとう"),
        ("cp949", "안녕하세요 한국어 서울"),
        ("cp874", "สวัสดี ภาษาไทย กรุงเทพ"),
    ],
)
def test_the_encodings_of_other_countries_are_among_those_shown(tmp_path, encoding, labels):
    rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate(["Anna", *labels.split()]))
    (tmp_path / "labels.csv").write_bytes(f"filename,text\n{rows}".encode(encoding))
    with pytest.raises(DatasetError, match=r"set data\.encoding to the encoding in which the line is right") as found:
        read(tmp_path)
    assert any(f",{label}` in {encoding}" in str(found.value) for label in labels.split()), found.value


def test_a_file_that_fits_no_encoding_is_not_said_to_fit_one(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"filename,text\n" + bytes(range(255, 0, -1)) * 9)
    with pytest.raises(DatasetError, match=r"is not utf-8 text \('utf-8' codec can't decode"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "labels", "made_by"),
    [
        ("words.txt", '# IAM\n\na ok 154 1 2 3 4 AT "\nb err 154 1 2 3 4 NN B\n', "lines = .*"),
        ("a.txt", '"\n', "rows = .*rglob.*"),
        ("labels.jsonl", '{"file_name": "a.png", "text": "\\""}\n', "rows = .*json.*"),
    ],
)
def test_labels_in_another_form_become_a_table_as_the_docs_say(tmp_path, monkeypatch, name, labels, made_by):
    folder = one_image(tmp_path / "names", "")
    (folder / name).write_text(labels, encoding="utf-8")
    page = (Path(__file__).parents[3] / "docs/data.md").read_text(encoding="utf-8")
    gather, write = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1).rsplit("\n\n", 1)
    begin, *ways = gather.split("\n#")
    (way,) = (way for way in ways if re.search(made_by, way))
    monkeypatch.chdir(tmp_path)
    exec(f"{begin}\n#{way}\n{write}", {})
    assert [sample.text for sample in read(folder)] == ['"']


@pytest.mark.parametrize("name", ["labels.xlsx", "Labels.ODS"])
def test_a_workbook_without_a_csv_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(DatasetError, match=rf'{name} is a workbook: open it and save it as "CSV UTF-8"'):
        read(tmp_path)


@pytest.mark.parametrize("name", ["._labels.csv", "~$labels.csv", ".~lock.labels.csv", "__MACOSX/labels.csv"])
def test_files_that_no_person_made_are_passed_over(tmp_path, name):
    folder = one_image(tmp_path, "filename,text\na.png,Anna\n")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\0\x05\x16\x07 no table at all")
    assert len(read(folder)) == 1
    _, notes = find_tables(DataConfig(paths=[str(folder)]))
    assert notes == [f"{folder}: passed over 1 hidden or system file, such as {name.split('/')[0]}."]


def test_only_hidden_files_are_said_to_be_that(tmp_path):
    (tmp_path / "._labels.csv").write_bytes(b"\0")
    with pytest.raises(DatasetError, match=r"Hidden files do not count, such as \._labels\.csv"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("on_disk", "named", "mend"),
    [
        ("a.jpg", "a", "extension"),
        ("scans/a.jpg", "a", "extension"),
        ("a.JPG", "a", "extension"),
        ("Smith.J.png", "Smith.J", "extension"),
        ("Zoë.PNG", "zoë.png", "case"),
        ("Scans/A.png", "scans/a.png", "case"),
        ("a.png", "a.png", ""),
    ],
)
def test_the_one_image_that_a_row_must_mean_is_found(tmp_path, on_disk, named, mend):
    (tmp_path / on_disk).parent.mkdir(exist_ok=True)
    (tmp_path / on_disk).write_bytes(encode(drawn_image(), on_disk[-4:].lower()))
    (tmp_path / "labels.csv").write_text(f"filename,text\n{named},Anna\n", encoding="utf-8")
    (sample,) = read(tmp_path)
    assert isinstance(sample, Sample) and sample.mend == mend
    assert sample.id == f"{tmp_path.name}/{on_disk}"


@pytest.mark.parametrize(
    ("on_disk", "named", "reason", "detail"),
    [
        (["a.jpg", "a.png"], "a", "ambiguous_file", "a.jpg and"),
        (["a.PNG", "A.png"], "a.png", "ambiguous_file", "2 files of that name"),
        (["a.png"], "a.jpg", "missing_file", "a.png has a similar name"),
        (["a.heic"], "a", "missing_file", ".heic is not read, save it as JPEG or PNG"),
        (["a.heic"], "a.jpg", "missing_file", ".heic is not read"),
        (["a.heic"], "a.heic", "not_an_image", ".heic is not read: save the image as JPEG or PNG"),
        (["b.png"], "a.png", "missing_file", "nor anywhere below"),
        (["images/0017.png", "images/0071.png"], "17", "missing_file", "images/0017.png has this number: has a spread"),
        (["0017.png"], "17.png", "missing_file", "0017.png has this number"),
    ],
)
def test_what_a_row_may_mean_is_named(tmp_path, on_disk, named, reason, detail):
    for name in on_disk:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(
            encode(drawn_image()) if name.lower().endswith(SUFFIXES) else b"\0\0\0\x18ftypheic"
        )
    (tmp_path / "labels.csv").write_text(f"filename,text\n{named},Anna\n")
    (reject,) = read(tmp_path)
    assert reject.reason == reason and detail in reject.detail


@pytest.mark.parametrize(("named", "found"), [("images/0", "images/0.png"), ("0", "0.png"), ("0.PNG", "0.png")])
def test_an_image_beside_others_of_its_name_is_preferred(tmp_path, named, found):
    for folder in (".", "images", "thumbnails"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "0.png").write_bytes(encode(drawn_image()))
    (tmp_path / "labels.csv").write_text(f"filename,text\n{named},Anna\n")
    (sample,) = read(tmp_path)
    assert sample.id == f"{tmp_path.name}/{found}"


@pytest.mark.parametrize("named", ["train/5.png", "train/5", "train/5.PNG", "train\\5.png"])
def test_an_image_that_is_missing_is_not_another_folders_image_of_its_name(tmp_path, named):
    for name in ("train/4.png", "test/5.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encode(drawn_image()))
    (tmp_path / "labels.csv").write_text(f"filename,text\n{named},Anna\n./4.png,Berta\ngone/5.png,Clara\n")
    missing, flat, moved = read(tmp_path)
    assert missing.reason == "missing_file"
    assert [sample.id.partition("/")[2] for sample in (flat, moved)] == ["train/4.png", "test/5.png"]


@pytest.mark.parametrize("named", ["0.png", "0", "0.PNG"])
def test_hidden_images_are_taken_only_where_a_row_names_them(tmp_path, named):
    for name in ("images/0.png", ".thumbnails/0.png", "images/._0.png", ".scans/1.png", "images/.2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(drawn_image()))
    rows = (f"{named},Anna", ".scans/1.png,Berta", ".2.png,Clara")
    (tmp_path / "labels.csv").write_text("\n".join(["filename,text", *rows]))
    found = [result.id.partition("/")[2] for result in read(tmp_path)]
    assert found == ["images/0.png", ".scans/1.png", "images/.2.png"]


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("w1\\0.png", "w1/0.png"),
        ("w2\\0", "w2/0.png"),
        (".\\w2\\0.png", "w2/0.png"),
        ("D:\\scans\\w1\\1.png", "w1/1.png"),
        ("w3\\0.png", "w3\\0.png"),
    ],
)
def test_a_path_of_windows_is_one(tmp_path, named, found):
    for name in ("w1/0.png", "w2/0.png", "w1/1.png", "w3/0.png", "w3\\0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(drawn_image()))
    (tmp_path / "labels.csv").write_text(f"filename,text\n{named},Anna\n")
    (sample,) = read(tmp_path)
    assert sample.id == f"{tmp_path.name}/{found}"


@pytest.mark.parametrize(
    ("label", "reason"),
    [("NaN", "empty_label"), ("nan", "empty_label"), ("NAN", "empty_label"), ("#n/a", "empty_label"),
     ("empty", "placeholder_label"), ("Unreadable", "placeholder_label")],
)  # fmt: skip
def test_placeholders_are_compared_without_case(tmp_path, label, reason):
    folder = one_image(tmp_path, f"filename,text\na.png,{label}\n")
    (reject,) = read(folder)
    assert reject.reason == reason and "data.placeholders=[] keeps such labels" in reject.detail
    (sample,) = read(folder, placeholders=[])
    assert sample.text == label


def test_check_and_run_write_rejects_alike(tmp_path, capsys):
    from components.example_gen.rejects import HEADER, as_csv_line

    folder = write_dataset(tmp_path / "data", [{"filename": "a.png", "text": 'one\r\n"two"'}, *[
        {"filename": f"{i}.png", "text": "ab"} for i in range(20)]])  # fmt: skip
    out = tmp_path / "rejects.csv"
    assert cli.main(["check", "--data", str(folder), "--rejects", str(out)]) == 0
    capsys.readouterr()
    (reject,) = [result for result in read(folder) if not isinstance(result, Sample)]
    content = out.read_bytes().decode()
    assert content == as_csv([reject]) == f"{HEADER}\n{as_csv_line(reject)}\n"  # the latter is what Beam writes


def test_a_large_image_names_the_setting_of_the_pipeline(tmp_path):
    (reject,) = read(one_image(tmp_path, "filename,text\na.png,Anna\n"), max_megapixels=0.01)
    assert "--set data.max_megapixels" in reject.detail


@pytest.mark.parametrize("command", ["drift", "check"])
def test_a_folder_of_links_names_the_setting(tmp_path, capsys, command):
    real = write_dataset(tmp_path / "real", [{"filename": f"{i}.png", "text": "ab"} for i in range(9)])
    data = tmp_path / "data"
    data.mkdir()
    os.rename(real / "labels.csv", data / "labels.csv")
    (data / "images").symlink_to(real)
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace("\n", "\nimages/").rstrip("images/"))
    assert cli.main([command, "--data", str(data), *(["--against", str(data)] if command == "drift" else [])]) != 0
    said = capsys.readouterr()
    assert "data.allow_outside=true reads images outside" in said.out + said.err


@pytest.mark.parametrize(
    "rows",
    [
        ["a\tone", 'b\t"5 inch', "c\ttwo", 'd\t5" more', "e\tthree"],
        ["a01-00\tone", 'a01-01\t"', "a01-02\ttwo", 'a01-03\t"', "a01-04\tthree"],
        ["a01-00,one", 'a01-01,"', "a01-02,two", 'a01-03,"', "a01-04,three"],
        ["a.png,one", 'b.png,"5 inch', "c.jpg,two", 'd.jpg,5"', "e.png,three"],
        ["scan 1\tone", 'scan 2\t"5 inch', "scan 3\ttwo", 'scan 4\t5"', "scan 5\tthree"],
        ["scan 1,one", 'scan 2,"5 inch', "scan 3,two", 'scan 4,5" more', "scan 5,three"],
    ],
)
def test_rows_are_not_lost_in_a_field_whatever_their_images_are_called(tmp_path, rows):
    header = "filename\ttext" if "\t" in rows[0] else "filename,text"
    with pytest.raises(DatasetError, match=r"labels\.csv, lines 3 to 5: a quotation mark is opened in one row and clo"):
        read(one_image(tmp_path, "\n".join([header, *rows])))


@pytest.mark.parametrize(
    "content",
    [
        'filename,text\na.png,"Dear Sir,\nI write, in haste,\nyours, John"\n',
        'filename,text\na.png,"Dear Sir,\nYes, really"\n',
        '"filename","text"\n"a1","Dear Sir,\nb2,c"\n',
    ],
)
def test_texts_of_several_lines_with_commas_are_one_row(tmp_path, content):
    assert [reject.reason for reject in read(one_image(tmp_path, content))] in (["control_character"], ["missing_file"])


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ('a.png,"Hello" she said,w1', "text"),
        ('a.png,"a" and "b",w1', "text"),
        ('a.png, "An""n"a,w1', "text"),
        ('a.png,"Dear\nSir" she said,w1', "text"),
        ('"a.png",Anna,"w"1', "writer"),
        ('"a".png,Anna,w1', "filename"),
        ('a.png,Anna,w1,"x"y', "number 4"),
    ],
)
def test_a_field_that_goes_on_after_its_quotation_marks_is_rejected(tmp_path, row, column):
    folder = one_image(tmp_path, f'filename,text,writer\n{row}\na.png,An"na,w1\na.png,"An""na" ,w1\n')
    reject, *others = read(folder)
    assert reject.reason == "malformed_row" and reject.line == 2 + row.count("\n")
    assert reject.detail.startswith(f"the field {column} goes on after its closing quotation mark: put the whole field")
    assert [sample.text for sample in others] == ['An"na'] * 2


def test_a_tall_image_has_the_size_that_its_file_says(tmp_path):
    """Such an image is shrunk before it is stored; who looks for it in the folder knows its own size."""
    for name, text in (("a.png", "Anna"), ("b.png", "a" * 400)):
        (tmp_path / name).write_bytes(encode(drawn_image(1500, 600)))
        with open(tmp_path / "labels.csv", "a") as file:
            file.write(f"{'' if file.tell() else f'filename,text{chr(10)}'}{name},{text}\n")
    sample, reject = read(tmp_path)
    assert sample.original == (1500, 600) and sample.height == 300
    assert "a 1500 x 600 image has" in reject.detail
