"""Bad input: every row of a hostile dataset has its result, no row is lost, and nothing hangs or fills the memory."""

import csv
import dataclasses
import os
import subprocess
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common import storage
from components.example_gen import dataset, table
from components.example_gen import fingerprint as fingerprints
from components.example_gen.dataset import Sample
from components.example_gen.folders import find_tables
from components.example_gen.header import DELIMITERS
from components.example_gen.images import _files
from components.example_gen.plan import make_plan
from components.example_gen.rejects import Reject, as_csv
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError, read_rows
from components.report import figures
from components.transform.settings import TransformConfig
from htr_client.decoding import Alphabet
from pipeline import cli
from tests.components import hostile
from tests.conftest import drawn_image, encode, write_dataset

# What this module tests is often that something ends at all.
pytestmark = pytest.mark.timeout(120)


def config(folder, **settings):
    return DataConfig(paths=[str(folder)], **settings)


def read(folder, **settings):
    return list(dataset.examine_all(config(folder, **settings), TransformConfig()))


def fingerprint(folder, **settings):
    return fingerprints.fingerprint(find_tables(config(folder, **settings))[0])


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A row with a good image, and the splits of its dataset."""
    folder = write_dataset(tmp_path_factory.mktemp("labelled"), [{"filename": "a.png", "text": "Anna"}])
    tables, _ = find_tables(config(folder))
    return next(read_rows(tables[0])), make_plan(tables, DataConfig()).splits


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return folder / "data", hostile.build(folder)


def wrong(cases, results):
    """Rows whose result is not the one that the case says, in words."""
    for case, result in zip(cases, results, strict=True):
        row = f"{case.image[:60]!r} {case.text[:20]!r}"
        if isinstance(result, Reject) or case.reason:
            found = f"{result.reason}: {result.detail[:100]}" if isinstance(result, Reject) else "accepted"
            if found.partition(":")[0] != case.reason:
                yield f"{row} is to be {case.reason or 'accepted'}, but is {found}"
            continue
        if result.text != (case.text if case.label is None else case.label):
            yield f"{row} has the label {result.text!r}"
        if case.pixels is not None:
            pixels = hostile.decoded(result.image)
            if pixels.shape != case.pixels.shape or (result.height, result.width) != pixels.shape:
                yield f"{row} has the shape {pixels.shape}"
            elif np.abs(pixels.astype(int) - case.pixels).max() > case.tolerance:
                yield f"{row} has other pixels"


def test_every_row_has_its_result(built):
    folder, cases = built
    assert not list(wrong(cases, read(folder)))


def test_images_outside_are_read_where_that_is_allowed(built):
    folder, cases = built
    cases = [c if c.outside is None else dataclasses.replace(c, reason=c.outside) for c in cases]
    assert not list(wrong(cases, read(folder, allow_outside=True)))


def test_ids_are_utf8_and_equal_for_the_same_image_only(built):
    folder, cases = built
    ids = {c.image: r.id for c, r in zip(cases, read(folder), strict=True) if isinstance(r, Sample)}
    assert ids["in_an_untidy_folder.png"] == "data/Zo\\udceb/in_an_untidy_folder.png"
    assert ids["good.png"] == ids[" good.png "] == ids["images/../good.png"]
    assert len({i.encode() for i in ids.values()}) == len(ids) - 4  # deeper.png has three names, good.png too


def test_rejects_are_short_and_can_be_written(built, tmp_path):
    rejects = [r for r in read(built[0]) if isinstance(r, Reject)]
    (tmp_path / "rejects.csv").write_text(as_csv(rejects), encoding="utf-8", newline="")
    with open(tmp_path / "rejects.csv", encoding="utf-8", newline="") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == [r.reason for r in rejects]
    assert (tmp_path / "rejects.csv").stat().st_size < 2000 * len(rejects)
    assert not any(unicodedata.category(c) == "Cc" for reject in rejects for c in reject.detail)  # they go to terminals


def test_check_counts_every_row_and_shows_only_what_is_harmless(built, tmp_path, capsys):
    folder, cases = built
    page, rejects = tmp_path / "check.html", tmp_path / "rejects.csv"
    arguments = ["check", "--data", str(folder), "--html", str(page), "--rejects", str(rejects)]
    assert cli.main(arguments) == 4
    capsys.readouterr()
    assert cli.main([*arguments, "--set", "data.max_rejected=1"]) == 0
    out = capsys.readouterr().out
    assert f"{len(cases)} rows in" in out and len(out) < 40_000
    expected = Counter(case.reason for case in cases if case.reason)
    with open(rejects, encoding="utf-8", newline="") as file:
        assert Counter(row["reason"] for row in csv.DictReader(file)) == expected
    accepted = sum(int(line.split()[0]) for line in out.splitlines() if " accepted for " in line)
    assert accepted + expected.total() == len(cases)
    html = page.read_text(encoding="utf-8")
    assert '<b>&"' not in html and "&lt;b&gt;&amp;" in html


def test_reports_decode_no_bombs():
    assert figures.thumbnail(hostile.png(60_000, 60_000, 0, bytes(1000))) is None
    assert figures.thumbnail(hostile.png(20_000, 20_000, 0, bytes(1000))) is None
    assert figures.thumbnail(encode(hostile.page())) is not None


def test_folder_can_be_fingerprinted_and_replaced_images_are_noticed(built):
    folder, _ = built
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    os.utime(folder / "no_extension", ns=(1, 1))
    assert fingerprint(folder) != before
    before, allowed = fingerprint(folder), fingerprint(folder, allow_outside=True)
    os.utime(folder.parent / "outside" / "secret.png", ns=(1, 1))
    assert fingerprint(folder, allow_outside=True) != allowed


# One label file at a time: its encoding, its quotes, its columns.

LINE = "filename,text\n"
WIDE = "a," * 300_000


LABEL_FILES = {
    "Latin-1 as set": (f"{LINE}a.png,Zoë\n".encode("latin-1"), {"encoding": "latin-1"}, ["Zoë"]),
    "cp1250 as set": (f"{LINE}a.png,Łódź\n".encode("cp1250"), {"encoding": "cp1250"}, ["Łódź"]),
    "UTF-16 without mark as set": (f"{LINE}a.png,Zoë\n".encode("utf-16-le"), {"encoding": "utf-16-le"}, ["Zoë"]),
    "mark overrides setting": (b"\xfe\xff" + f"{LINE}a.png,Zoë".encode("utf-16-be"), {"encoding": "ascii"}, ["Zoë"]),
    "Mac line ends": (b"filename,text\ra.png,Anna\r", {}, ["Anna"]),
    "Windows line ends": (b"filename,text\r\na.png,Anna\r\n\r\n", {}, ["Anna"]),
    "no line end": (f"{LINE}a.png,Anna".encode(), {}, ["Anna"]),
    "UTF-32 with mark": (f"{LINE}a.png,Zoë\n".encode("utf-32"), {}, ["Zoë"]),
    "UTF-32 of the other order": (b"\0\0\xfe\xff" + f"{LINE}a.png,Zoë".encode("utf-32-be"), {}, ["Zoë"]),
    "vertical tab is no line end": (f"{LINE}a.png,An\x0bna\n".encode(), {}, ["control_character"]),
    "quotation mark within": (f'{LINE}a.png,An"na\n'.encode(), {}, ['An"na']),
    "quotation marks before more text": (f'{LINE}a.png,"An"na\n'.encode(), {}, ["malformed_row"]),
    "label over two lines": (f'{LINE}a.png,"An\nna"\na.png,Otto\n'.encode(), {}, ["control_character", "Otto"]),
    "note over two lines": (b'filename,text,note\na.png,Anna,"one\ntwo\n"\na.png,Otto,\n', {}, ["Anna", "Otto"]),
    "NUL in a note": (b"filename,text,note\na.png,Anna,\0\n", {}, ["Anna"]),
    "empty fields and blank lines": (f"{LINE},\na.png,Anna\n \n,,,\n\n,Otto".encode(), {}, ["Anna", "missing_file"]),
    "row of many columns": (f"{LINE}a.png,{WIDE}\na.png,Anna\n".encode(), {}, ["malformed_row", "Anna"]),
    "header of many columns": (f"filename,text,{WIDE}\na.png,Anna\n".encode(), {}, ["malformed_row"]),
    "everything of many columns": (f"filename,text,{WIDE}\na.png,Anna,{WIDE}\n".encode(), {}, ["Anna"]),
    "unused columns alike": (b"filename,text,note,note\na.png,Anna,x,y\n", {}, ["Anna"]),
    "chosen in other letters": (b"filename,Ground-Text\na.png,Anna\n", {"text_column": "ground text"}, ["Anna"]),
    "alike but for case, chosen": (b"filename,Text,text\na.png,Anna,Otto\n", {"text_column": "Text"}, ["Anna"]),
    "writer columns alike, chosen": (b"filename,text,Writer,writer\na.png,A,1,2\n", {"writer_column": "Writer"}, ["A"]),
    "header only": (LINE.encode(), {}, []),
    # The whole file is refused where no row can be trusted.
    "Latin-1": (f"{LINE}a.png,Anna\na.png,Zoë\n".encode("latin-1"), {}, r"labels\.csv is not utf-8 text"),
    "UTF-16 without mark": (f"{LINE}a.png,Anna\n".encode("utf-16-le"), {}, r"not utf-8 text \(NUL.*=utf-16-le\."),
    "UTF-16-BE without mark": (f"{LINE}a.png,Zoë\n".encode("utf-16-be"), {}, r"not utf-8 text \(NUL.*=utf-16-be\."),
    "UTF-16, another as set": (f"{LINE}a.png,Zoë".encode("utf-16-le"), {"encoding": "cp1252"}, r"NUL.*=utf-16-le\."),
    "cut UTF-16": (f"{LINE}a.png,Anna\n".encode("utf-16")[:-1], {}, r"not utf-16 text"),
    "mark only": (b"\xef\xbb\xbf", {}, "is empty"),
    "empty lines only": (b"\n;;\n\n", {}, "is empty"),
    "quote open at the end": (f'{LINE}a.png,"Anna\na.png,Otto\n'.encode(), {}, r"labels\.csv, line 2: a quotation"),
    "quote open without line end": (f'{LINE}a.png,"Anna'.encode(), {}, "line 2: a quotation mark is opened"),
    "quote open in the header": (b'filename,"text\na.png,Anna\n', {}, "line 1: a quotation mark is opened"),
    "quote closed too late": (LINE.encode() + b'a.png,A\na.png,"B' + b"\n" * 150 + b'"\n', {}, "line 3: a quotation"),
    "columns alike": (b"filename,text,text\na.png,Anna,Otto\n", {}, r"several columns 'text'.*data\.text_column"),
    "columns alike but for case": (b"filename,Text,text\na.png,Anna,Otto\n", {}, r"several columns 'text'"),
    "image columns alike": (b"path,PATH,text\na.png,b.png,A\n", {}, r"several columns 'path'.*data\.image_column"),
    "chosen, alike but for case": (b"path,Says,says\na.png,A,B\n", {"text_column": "SAYS"}, "several columns 'says'"),
    "chosen columns alike": (b"path,text,text\na.png,A,B\n", {"text_column": "text"}, r"several columns 'text'"),
    "no column of many": (f"{WIDE}\n".encode(), {}, r"^.{,700}300001 in all"),
    "no chosen column of many": (f"{WIDE}\n".encode(), {"image_column": "scan"}, r"^.{,900}300001 in all"),
    "program": (b"\x7fELF" + bytes(1000), {}, "NUL characters in the header line"),
    "endless header": (b"filename,text," + b"x" * (17 * 2**20), {}, "no table: its first line"),
    "endless field": (f"{LINE}a.png,".encode() + b"x" * (17 * 2**20), {}, "line 2: field larger than field limit"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABEL_FILES)
def test_label_files(tmp_path, name):
    content, settings, expected = LABEL_FILES[name]
    (tmp_path / "a.png").write_bytes(encode(drawn_image(300)))
    (tmp_path / "labels.csv").write_bytes(content)
    if isinstance(expected, str):
        with pytest.raises(DatasetError, match=expected):
            read(tmp_path, **settings)
    else:
        assert [r.reason if isinstance(r, Reject) else r.text for r in read(tmp_path, **settings)] == expected


def test_lines_without_an_end_are_not_read_to_their_end(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "_MOST_CHARACTERS", 10_000)
    (tmp_path / "labels.csv").write_text(LINE + "a" * 10_001)
    with pytest.raises(DatasetError, match="a line of more than 10000 characters"):
        read(tmp_path)


def test_header_only_is_nothing_to_train_on(tmp_path, capsys):
    (tmp_path / "labels.csv").write_text(LINE)
    page = tmp_path / "check.html"
    assert cli.main(["check", "--data", str(tmp_path), "--html", str(page)]) == cli.USAGE
    said, sentence = capsys.readouterr(), "The CSV files hold a header line but no rows."
    assert "0 rows in" in said.out and page.exists()
    assert f"Problem: {sentence}" in said.out and sentence in said.err


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=8),
    st.sampled_from(DELIMITERS),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_fields_are_read_as_they_were_written(tmp_path_factory, rows, delimiter, encoding, line_end):
    rows = [[cell.replace("\0", "") for cell in row] for row in rows]
    folder = tmp_path_factory.getbasetemp() / "written"
    folder.mkdir(exist_ok=True)
    with open(folder / "labels.csv", "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
        writer.writerows([["filename", "text", "note"], *rows])
    tables, _ = find_tables(config(folder))
    assert [list(row.fields) for row in read_rows(tables[0])] == [row for row in rows if any(map(str.strip, row))]


@given(CELLS | st.text(max_size=12), st.none() | st.text(max_size=20))
def test_any_label_is_accepted_in_nfc_or_rejected(labelled, text, alphabet):
    row, splits = labelled
    row = row._replace(fields=("a.png", text))
    settings = DataConfig() if alphabet is None else DataConfig(alphabet=alphabet)
    (result,) = dataset.examine_rows([row], splits, settings, TransformConfig())
    if isinstance(result, Reject):
        assert result.reason in {
            "empty_label", "placeholder_label", "control_character", "unknown_character", "label_too_long",
        }  # fmt: skip
    else:
        assert result.text == unicodedata.normalize("NFC", text).strip() != ""
        assert alphabet is None or set(result.text) <= set(unicodedata.normalize("NFC", alphabet))
        assert Alphabet(sorted(set(result.text))).encode(result.text)


@given(
    st.lists(
        st.sampled_from([b"filename", b"text", b"a.png", b"Anna"])
        | st.binary(max_size=6)
        | st.sampled_from([b",", b";", b"\t", b'"', b"\n", b"\r", b"\0", b"\xff\xfe", b"\xef\xbb\xbf"]),
        max_size=30,
    )
)
def test_any_bytes_are_rows_or_one_readable_error(tmp_path_factory, pieces):
    folder = tmp_path_factory.getbasetemp() / "bytes"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(encode(drawn_image()))
    (folder / "labels.csv").write_bytes((b"filename,text\n" if len(pieces) % 2 else b"") + b"".join(pieces))
    try:
        assert all(isinstance(result, (Sample, Reject)) for result in read(folder))
    except DatasetError as error:
        assert "labels.csv" in str(error)


# Label files and folders that are no plain files and folders.


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(encode(drawn_image()))
    return tmp_path / "data"


def test_pipes_and_devices_are_no_label_files(folder):
    os.mkfifo(folder / "labels.csv")
    with pytest.raises(DatasetError, match=r"labels\.csv cannot be read: not a regular file"):
        read(folder)
    (folder / "labels.csv").unlink()
    (folder / "labels.csv").symlink_to("/dev/zero")
    with pytest.raises(DatasetError, match="outside of the data folder"):
        read(folder)
    with pytest.raises(DatasetError, match="not a regular file"):
        read(folder, allow_outside=True)


def test_label_files_outside_are_read_only_where_that_is_allowed(folder):
    (folder.parent / "secret.csv").write_text(LINE + "a.png,Anna\n")
    (folder / "labels.csv").symlink_to("../secret.csv")
    with pytest.raises(DatasetError, match=r"labels\.csv is a link to a file outside.*data\.allow_outside"):
        read(folder)
    assert [sample.text for sample in read(folder, allow_outside=True)] == ["Anna"]
    inner = folder / "unpacked"
    (folder / "labels.csv").unlink()
    inner.symlink_to("..")
    with pytest.raises(DatasetError, match=r"secret\.csv is a link to a file outside"):
        read(folder)


def test_a_linked_folder_that_is_not_searched_is_named(folder):
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "b.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "images").symlink_to("../elsewhere")
    (folder / "labels.csv").write_text(LINE + "b.png,Anna\nimages/b.png,Anna\n")
    missing, found = read(folder, allow_outside=True)
    assert missing.reason == "missing_file"
    assert missing.detail.endswith("/images is a link, which is not searched: name the image images/b.png")
    assert found.text == "Anna" and read(folder)[1].reason == "outside_folder"


def test_no_server_is_asked_because_a_row_names_it(folder, monkeypatch):
    monkeypatch.setattr(storage, "_bucket", lambda path: pytest.fail(f"{path} was opened"))
    (folder / "labels.csv").write_text(LINE + "gs://bucket/b.png,Anna\nx/https://example.org/a.png,Anna\n")
    for settings in ({}, {"allow_outside": True}):
        results = read(folder, **settings)
        assert [r.reason if isinstance(r, Reject) else r.id for r in results] == ["missing_file", "data/a.png"]


def test_links_that_lead_nowhere(folder):
    (folder / "labels.csv").symlink_to("nowhere.csv")
    with pytest.raises(DatasetError, match=r"labels\.csv cannot be read"):
        read(folder)
    (folder / "labels.csv").unlink()
    (folder / "labels.csv").mkdir()
    with pytest.raises(DatasetError, match=r"holds no \.csv"):
        read(folder)


def test_folders_nested_deeper_than_a_path_can_say(folder, request):
    # pytest's own way to delete them recurses too deep.
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", folder / "d"], check=True))
    (folder / "labels.csv").write_text(LINE + "b.png,Anna\n")
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    assert [r.reason for r in read(folder)] == ["missing_file"]  # deeper than Python recurses
    _files.cache_clear()
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=descriptor)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    for use in (read, fingerprint):
        with pytest.raises(DatasetError, match=r"A folder below .*data cannot be read .*name too long"):
            use(folder)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            storage.read(str(path))
