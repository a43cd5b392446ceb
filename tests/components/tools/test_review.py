"""`htr review`: what the model is unsure of becomes a folder to correct and train on."""

import csv
import dataclasses
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.common import storage
from components.example_gen import dataset
from components.example_gen.folders import find_tables
from components.example_gen.plan import make_plan
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLITS
from components.tools.review import review
from components.transform.settings import TransformConfig
from htr_client import ImageError, RequestLog, Timings, Transcription
from htr_client.image_files import pack
from htr_client.suspicion import Suspicion
from htr_client.testing import FakeServer
from pipeline import cli
from tests.conftest import drawn_image, encode, write_dataset


@pytest.fixture
def log(tmp_path):
    """Twenty answers of rising confidence, the first image three times."""
    made = RequestLog(tmp_path / "log", rate=1)
    for number in (0, 0, *range(20)):
        made.offer(encode(drawn_image(200, 40, number)), f"guess {number}", 0.05 * number, "htr", 7)
    made.close()
    return tmp_path / "log"


def rows(folder):
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_least_sure_answers_of_logs_become_a_dataset(log, tmp_path, capsys):
    output = tmp_path / "review"
    assert cli.main(["review", "--logs", str(log), "--output", str(output), "--below", "0.5"]) == 0
    assert f"10 images in {output}" in capsys.readouterr().out
    found = rows(output)
    assert [row["text"] for row in found] == [f"guess {number}" for number in range(10)]
    assert all(row["guess"] == row["text"] and row["model_version"] == "7" for row in found)
    page = (output / "review.html").read_text(encoding="utf-8")
    assert "transcribed with confidence 15 %, " in page and "confidence below 0.01 %, " in page
    assert (output / found[3]["filename"]).read_bytes() == encode(drawn_image(200, 40, 3))
    # What the pipeline makes of it once it is corrected.
    settings = DataConfig(paths=[str(output)])
    samples = dataset.examine_all(settings, TransformConfig())
    assert [s.text for s in samples] == [row["text"] for row in found]


def test_what_an_earlier_review_has_labelled_is_left_out_of_the_next(log, tmp_path, capsys):
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    arguments = ["review", "--logs", str(log), "--below", "0.5"]
    assert cli.main([*arguments, "--output", first, "--limit", "4"]) == 0
    assert cli.main([*arguments, "--output", second, "--data", first]) == 0
    told = capsys.readouterr().out
    assert "left out: 4 images labelled already\n6 images in" in told
    assert [row["text"] for row in rows(tmp_path / "second")] == [f"guess {number}" for number in range(4, 10)]
    assert cli.main([*arguments, "--output", third, "--data", first, "--data", second]) == cli.USAGE
    assert "10 images labelled already, and the model is surer than --below of all others" in capsys.readouterr().err


def test_texts_that_nobody_has_looked_at_are_a_models(log, tmp_path, capsys):
    names = write_dataset(tmp_path / "names", [{"filename": f"{n}.png", "text": "ab"} for n in range(80)])
    output = tmp_path / "review"
    assert cli.main(["review", "--logs", str(log), "--output", str(output), "--below", "0.5"]) == 0
    data = DataConfig(paths=[str(names), str(output)])

    def told():
        samples = [sample for sample in dataset.examine_all(data, TransformConfig()) if sample.source == "review"]
        return sum(sample.by_model for sample in samples), make_plan(find_tables(data)[0], data).problems

    by_model, (problem,) = told()
    assert by_model == 10 and problem.startswith("Nobody has corrected review/labels.csv: its texts are those that")
    # By hand; the page empties the column, also where the guess was right.
    content = (output / "labels.csv").read_text(encoding="utf-8")
    (output / "labels.csv").write_text(content.replace("guess 3,train", "right,train"), encoding="utf-8")
    assert told() == (10, [])
    (output / "labels.csv").write_text(content.replace(",7,7,", ",7,,", 4), encoding="utf-8")
    assert told() == (6, [])
    (output / "labels.csv").write_text(content.partition("\n")[0] + "\n", encoding="utf-8")
    assert told() == (0, [])


def test_labelled_images_are_left_out(log, tmp_path, capsys):
    names = tmp_path / "names"
    names.mkdir()
    for number in (0, 3, 19):
        (names / f"{number}.png").write_bytes(encode(drawn_image(200, 40, number)))
    (names / "labels.csv").write_text("scan,text\n0.png,a\n3.png,b\n19.png,c\n", encoding="utf-8")
    command = ["review", "--logs", str(log), "--below", "0.5", "--output", str(tmp_path / "review")]
    command += ["--data", str(names), "--set", "data.image_column=scan"]
    assert cli.main(command) == 0
    assert [row["text"] for row in rows(tmp_path / "review")] == [f"guess {n}" for n in (1, 2, *range(4, 10))]
    said = capsys.readouterr().out
    assert "left out: 2 images labelled already\n8 images in " in said, "the first was logged three times"
    command[command.index(str(tmp_path / "review"))] = str(tmp_path / "none")
    command[command.index("0.5")] = "0.01"
    assert cli.main(command) == cli.USAGE
    error = capsys.readouterr().err
    assert "Nothing to review: 1 image labelled already, and the model is surer than --below of all others." in error


def test_a_log_without_versions_is_a_models_too(log, tmp_path):
    for table in log.rglob("*.csv"):
        table.write_text(table.read_text(encoding="utf-8").replace("model_version", "version"), encoding="utf-8")
    assert cli.main(["review", "--logs", str(log), "--output", str(tmp_path / "review"), "--below", "0.5"]) == 0
    assert {(row["model_version"], row["labelling_model"]) for row in rows(tmp_path / "review")} == {("", "unknown")}


def test_page_saves_what_was_corrected_also_after_unreadable_was_taken_back(log, tmp_path):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if not chromium:
        pytest.skip("no browser is on the PATH")
    assert cli.main(["review", "--logs", str(log), "--output", str(tmp_path / "review"), "--below", "0.5"]) == 0
    script = """<script>
      URL.createObjectURL = blob => { blob.text().then(text => { document.body.innerText = text + asked; });
        return '#'; };
      const asked = [], leave = () => asked.push(!window.dispatchEvent(new Event('beforeunload', {cancelable: true})));
      leave();
      const [corrected, regretted, unreadable] = items.map(item => item.querySelectorAll('input'));
      corrected[0].value = 'corrected';
      corrected[0].dispatchEvent(new Event('input'));
      for (const box of [corrected[1], corrected[1], regretted[1], regretted[1], unreadable[1]]) box.click();
      leave();
      document.querySelector('button').click();
      leave();
    </script></body>"""
    page = tmp_path / "review" / "review.html"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    done = subprocess.run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=10000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    saved = done.stdout[done.stdout.index("<body") :]
    assert ",corrected," in saved and ",UNREADABLE," in saved
    assert saved.count("images/") == 2, "a row whose tick was taken back was not looked at"
    assert "false,true,false" in saved, "who leaves without saving is asked"


def test_a_suspect_image_is_a_doubt_however_sure_the_model_is(tmp_path):
    image = tmp_path / "0.png"
    image.write_bytes(encode(drawn_image(200, 40, 0)))
    answers = [Transcription("ab", 0.94, (), (), "htr", 7, str(image), Timings(0.0, 0.0, 0.0), suspicions=suspicions)
               for suspicions in ((), (Suspicion("inverted", "Dark."),))]  # fmt: skip
    assert len(list(review.from_answers(answers, 0.7, []))) == 1


def test_an_empty_guess_is_a_doubt_however_sure_the_model_is(tmp_path):
    made, answers = RequestLog(tmp_path / "log", rate=1), []
    for number, text in enumerate(("", "ab")):
        image = tmp_path / f"{number}.png"
        image.write_bytes(encode(drawn_image(200, 40, number)))
        made.offer(image.read_bytes(), text, 0.94, "htr", 7)
        answers.append(Transcription(text, 0.94, (), (), "htr", 7, str(image), Timings(0.0, 0.0, 0.0)))
    made.close()
    for doubts in (review.from_answers(answers, 0.7, []), review.from_logs([str(tmp_path / "log")], 0.7, [], [])):
        assert [doubt.guess for doubt in doubts] == [""]


def test_texts_of_htr_label_keep_the_version_that_wrote_them(log, tmp_path):
    for table in log.rglob("*.csv"):
        table.write_text(
            table.read_text(encoding="utf-8").replace("model_version", "labelling_model"), encoding="utf-8"
        )
    assert cli.main(["review", "--logs", str(log), "--output", str(tmp_path / "review"), "--below", "0.5"]) == 0
    assert {row["model_version"] for row in rows(tmp_path / "review")} == {"7"}


def splits_by_folder(*folders):
    """Which splits the images of each folder fall into, as the pipeline reads them together."""
    found = {}
    for sample in dataset.examine_all(DataConfig(paths=[str(folder) for folder in folders]), TransformConfig()):
        found.setdefault(sample.source, set()).add(sample.split)
    return found


@pytest.mark.parametrize(
    "named",
    [
        lambda number: {},
        lambda number: {"split": "test" if number % 4 == 0 else "train"},
        lambda number: {"split": "" if number % 4 == 0 else "train"},
        lambda number: {"split": ("train", "validation", "test")[number % 3]},
    ],
    ids=["drawn", "train and test", "some drawn", "all named"],
)
def test_reviewed_images_stay_in_training_beside_other_data(log, tmp_path, named):
    names = write_dataset(tmp_path / "names", [{"filename": f"{n}.png", "text": "ab", **named(n)} for n in range(80)])
    output = tmp_path / "review"
    assert cli.main(["review", "--logs", str(log), "--output", str(output), "--below", "1"]) == 0
    assert all(row["split"] == "train" for row in rows(output))
    assert splits_by_folder(names, output) == {"names": set(SPLITS), "review": {"train"}}
    # Alone, or with its like, it is all that there is to draw from.
    for folder in ("again", "more"):
        assert cli.main(["review", "--logs", str(log), "--output", str(tmp_path / folder), "--below", "1"]) == 0
    drawn = splits_by_folder(tmp_path / "again", tmp_path / "more")
    assert set().union(*drawn.values()) == set(SPLITS)


def test_what_was_logged_before_is_not_reviewed_again(log, tmp_path, capsys):
    (table,) = log.glob("*.csv")
    first, *others = table.read_text(encoding="utf-8").splitlines()
    old = [re.sub(r"\d{4}(-\d\d-\d\dT)", r"1999\1", line) for line in others[:-2]]
    table.write_text("\n".join([first, *old, re.sub(r",20[^,]*T[^,]*,", ",now,", others[-2]), others[-1]]) + "\n")
    command = ["review", "--logs", str(log), "--below", "1", "--output", str(tmp_path / "review"), "--since"]
    assert cli.main([*command, "1d"]) == 0
    assert [row["text"] for row in rows(tmp_path / "review")] == ["guess 19"]
    assert "time is 'now', not a date and a time" in capsys.readouterr().err
    command[-2] = str(tmp_path / "since a date")
    assert cli.main([*command, "1999-01-01"]) == 0 and len(rows(tmp_path / "since a date")) == 19
    command[-2] = str(tmp_path / "later")
    table.write_text("\n".join([first, *old]) + "\n")
    assert cli.main([*command, "2000-01-01T00:00Z"]) == cli.USAGE
    assert "surer than --below of every image since 2000-01-01 00:00 UTC" in capsys.readouterr().err


def test_limit_keeps_the_least_sure(log, tmp_path, capsys):
    output = tmp_path / "review"
    assert cli.main(["review", "--logs", str(log), "--output", str(output), "--below", "1", "--limit", "3"]) == 0
    assert [row["text"] for row in rows(output)] == ["guess 0", "guess 1", "guess 2"]
    # The first image was logged three times.
    assert f"3 of 20 images, the least sure ones (--limit collects more), in {output}" in capsys.readouterr().out


def of_confidences(folder, confidences):
    """A log with an image for each confidence, which are texts."""
    write_dataset(folder, [{"filename": f"{number}.png", "text": "ab"} for number in range(len(confidences))])
    table = [f"{number}.png,guess {number},{confidence}" for number, confidence in enumerate(confidences)]
    (folder / "labels.csv").write_text("\n".join(["filename,text,confidence", *table]), encoding="utf-8")
    return folder


def test_least_sure_of_long_lines_are_told_apart(tmp_path):
    made = RequestLog(tmp_path / "log", rate=1)
    for number in range(12):
        made.offer(encode(drawn_image(200, 40, number)), f"guess {number}", 1e-7 * (12 - number), "htr", 7)
    made.close()
    output = tmp_path / "review"
    assert cli.main(["review", "--logs", str(tmp_path / "log"), "--output", str(output), "--limit", "3"]) == 0
    assert [row["text"] for row in rows(output)] == ["guess 11", "guess 10", "guess 9"]
    assert [float(row["confidence"]) for row in rows(output)] == [1e-7, 2e-7, 3e-7]


@pytest.mark.parametrize("limit", [3, 11])
def test_rows_of_the_same_confidence_come_in_their_order(tmp_path, limit):
    """As in logs of earlier clients, which have four decimals; by its name row 10 would come before row 2."""
    log, output = of_confidences(tmp_path / "log", ["0.0000"] * 12), tmp_path / "review"
    assert cli.main(["review", "--logs", str(log), "--output", str(output), "--limit", str(limit)]) == 0
    assert [row["text"] for row in rows(output)] == [f"guess {number}" for number in range(limit)]


def test_images_of_logs_are_checked_as_a_server_would(tmp_path, capsys):
    """A TIFF does not become a file named .jpg, and what is no image is not one to correct."""
    folder = tmp_path / "log"
    folder.mkdir()
    for name in ("a.png", "b.tif", "c.bmp"):
        (folder / name).write_bytes(encode(drawn_image(seed=ord(name[0])), Path(name).suffix))
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:99])
    names = sorted(path.name for path in folder.iterdir())
    lines = ["filename,text,confidence", *(f"{name},{name},0.{number}" for number, name in enumerate(names))]
    (folder / "log.csv").write_text("\n".join(lines), encoding="utf-8")
    output = tmp_path / "review"
    assert cli.main(["review", "--logs", str(folder), "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert f"3 images in {output}" in said.out
    assert "3 could not be read; the first: log/log.csv, row 5" in said.err
    found = {row["text"]: output / row["filename"] for row in rows(output)}
    assert sorted(found) == ["a.png", "b.tif", "c.bmp"]
    assert all(path.suffix == ".png" and path.read_bytes()[:4] == b"\x89PNG" for path in found.values())


def test_confidences_that_are_none_are_told(tmp_path, capsys):
    odd = ("nan", "-5", "1.5", "n/a", "", "inf")
    names = [{"filename": f"{number}.png", "text": "ab"} for number in range(len(odd) + 2)]
    folder = write_dataset(tmp_path / "log", names)
    table = [f"{number}.png,guess,{confidence}" for number, confidence in enumerate((0.5, *odd, 0))]
    (folder / "labels.csv").write_text("\n".join(["filename,text,confidence", *table]), encoding="utf-8")
    (folder / "notes.csv").write_text("who,what\nAnna,came\n", encoding="utf-8")
    output = tmp_path / "review"
    assert cli.main(["review", "--logs", str(folder), "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert [row["confidence"] for row in rows(output)] == ["0.0", "0.5"]
    assert "6 could not be read; the first: log/labels.csv, row 3: confidence is 'nan', not a number" in said.err
    assert "note: " in said.err and f"{folder}/notes.csv" in said.err  # a table that was passed over


def test_broken_rows_of_a_log_are_passed_over(log, tmp_path, capsys):
    (table,) = log.glob("*.csv")
    cut_off = next(table.parent.rglob("*.png")).relative_to(table.parent)
    with open(table, "a", encoding="utf-8") as file:  # as a killed service leaves it
        file.write(f"images/gone.png,lost,0.01,htr,7,2026\nimages/ha\n{cut_off},Anna,0.01")
    output = tmp_path / "review"
    assert cli.main(["review", "--logs", str(log), "--output", str(output), "--below", "0.1"]) == 0
    assert "3 could not be read; the first: " in capsys.readouterr().err
    assert [row["text"] for row in rows(output)] == ["guess 0", "guess 1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name either --logs DIR or images"),
        (["--logs", "/nowhere"], "/nowhere does not exist"),
        (["--logs", "{log}", "--below", "0"], "Nothing to review"),
        (["--logs", "{plain}"], "has no column confidence"),
        (["--logs", "{log}", "--output", "{plain}"], "holds something already"),
        (["{empty}"], "no image in the folder"),
    ],
)
def test_wrong_usage_is_readable(log, tmp_path, capsys, arguments, message):
    plain = write_dataset(tmp_path / "plain", [{"filename": "a.png", "text": "ab"}])
    (tmp_path / "empty").mkdir()
    names = {"log": log, "plain": plain, "empty": tmp_path / "empty"}
    arguments = [argument.format(**names) for argument in arguments]
    assert cli.main(["review", "--output", str(tmp_path / "review"), *arguments]) == cli.USAGE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "review").exists()


@pytest.mark.parametrize("method", ["write_bytes", "write_text"], ids=["an image", "the page"])
def test_after_a_full_disk_the_same_command_can_go_on(log, tmp_path, capsys, monkeypatch, method):
    output = tmp_path / "review"
    arguments = ["review", "--logs", str(log), "--output", str(output)]

    def fails(path, *_, **__):
        path.touch()  # as a disk that fills up leaves it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, fails)
        assert cli.main(arguments) == cli.ERROR
    assert f"error: {output}: No space left on device" in capsys.readouterr().err
    assert not output.exists()
    assert cli.main(arguments) == 0 and (output / "review.html").exists() and rows(output)


@pytest.mark.parametrize(
    ("below", "message"),
    [("70", "for 70 % write 0.7 or 70%"),
     ("101", "a fraction between 0 and 1"), ("-0.1", "a fraction between 0 and 1"),
     ("nan", "a fraction between 0 and 1"),
     ("120%", "a fraction between 0 and 1"), ("most", "a fraction between 0 and 1")],
)  # fmt: skip
def test_a_bound_that_every_answer_meets_is_refused(log, tmp_path, capsys, below, message):
    with pytest.raises(SystemExit) as end:
        cli.main(["review", "--logs", str(log), "--output", str(tmp_path / "review"), f"--below={below}"])
    assert end.value.code == cli.USAGE and message in capsys.readouterr().err
    assert not (tmp_path / "review").exists()


def test_percent_is_understood(log, tmp_path):
    assert cli.main(["review", "--logs", str(log), "--output", str(tmp_path / "review"), "--below", "10%"]) == 0
    assert [row["text"] for row in rows(tmp_path / "review")] == ["guess 0", "guess 1"]


def test_file_names_that_are_no_utf8_are_written_as_escapes(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcller.png")
    Path(path).write_bytes(encode(drawn_image()))
    answer = Transcription("Anna", 0.2, (), (), "htr", 7, path, Timings(0.0, 0.0, 0.0), None)
    assert review.write(review.from_answers([answer], 0.5, []), str(tmp_path / "review"), 10) == (1, 1)
    assert [row["source"] for row in rows(tmp_path / "review")] == [f"{tmp_path}/m\\udcfcller.png"]
    assert "m\\udcfcller.png" in (tmp_path / "review" / "review.html").read_text(encoding="utf-8")


def test_server_that_is_away_is_an_error_not_a_traceback(tmp_path, capsys):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "ab"}])
    arguments = [str(tmp_path), "--output", str(tmp_path / "out"), "--server", "localhost:1", "--patience", "0"]
    assert cli.main(["review", *arguments]) == cli.ERROR
    assert "error:" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_commands_import_no_tensorflow(log, tmp_path):
    code = (
        "import sys\nfrom pipeline import cli\nlog, output = sys.argv[1:]\n"
        "assert cli.main(['review', '--logs', log, '--output', output]) == 0\n"
        "assert cli.main(['drift', '--data', log, '--against', output]) == 0\n"
        "loaded = [m for m in ('tfx', 'tensorflow', 'apache_beam', 'keras') if m in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    command = [sys.executable, "-c", code, str(log), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_labelled_tiff_is_the_png_that_a_log_has_of_it(tmp_path, capsys):
    made = RequestLog(tmp_path / "log", rate=1)
    names = write_dataset(tmp_path / "names", [{"filename": f"{number}.tif", "text": "ab"} for number in range(3)])
    for tiff in sorted(names.glob("*.tif")):
        made.offer(pack(tiff).data, "guess", 0.1, "htr", 7)  # what a client sends
    made.close()
    command = ["review", "--logs", str(tmp_path / "log"), "--output", str(tmp_path / "review"), "--data", str(names)]
    assert cli.main(command) == cli.USAGE
    assert "Nothing to review: 3 images labelled already" in capsys.readouterr().err


def test_what_cannot_be_read_is_counted(tmp_path, capsys):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "folder.png").mkdir()
    (folder / "log.csv").write_text("filename,text,confidence\ngone.png,Anna,0.2\nfolder.png,Anna,0.2\n")
    unread: list[str] = []
    assert list(review.from_logs([str(folder)], 0.5, unread, [])) == []
    assert unread[1] == f"logs/log.csv, row 3: {folder}/folder.png: not a regular file"
    assert cli.main(["review", "--logs", str(folder), "--output", str(tmp_path / "review")]) == cli.USAGE
    error = capsys.readouterr().err
    assert "2 could not be read" in error and "logs/log.csv, row 2: no file gone.png" in error
    error = ImageError("empty", "No bytes.")
    failed = Transcription("", 0.0, (), (), "htr", 0, "b.png", Timings(0.0, 0.0, 0.0), error)
    gone = dataclasses.replace(failed, source=f"{folder}/gone.png", error=None)  # since it was transcribed
    unread.clear()
    assert list(review.from_answers([failed, gone], 0.5, unread)) == []
    assert len(unread) == 2 and unread[0].startswith("b.png: No bytes.") and unread[1].startswith(f"{gone.source}: ")


@pytest.mark.parametrize("is_log", [True, False])
def test_images_as_large_as_the_setting_allows_are_collected(is_log, tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "large.png").write_bytes(encode(drawn_image(1200, 1000, 1)))
    (tmp_path / "logs" / "log.csv").write_text("filename,text,confidence\nlarge.png,Anna,0.2\n")
    with FakeServer() as server:
        source = ["--logs", str(tmp_path / "logs")]
        if not is_log:
            source = [str(tmp_path / "logs" / "large.png"), "--server", server.address, "--below", "1"]
        command = ["review", *source, "--output", str(tmp_path / "review"), "--set"]
        assert cli.main([*command, "data.max_megapixels=1"]) == cli.USAGE
        assert "more than the limit of 1,000,000" in capsys.readouterr().err
        assert cli.main([*command, "data.max_megapixels=2"]) == 0
    assert len(rows(tmp_path / "review")) == 1


def test_a_file_system_that_fails_ends_the_review_of_logs(log, tmp_path, capsys, monkeypatch):
    def fail(path, *_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)

    monkeypatch.setattr(storage, "read", fail)
    assert cli.main(["review", "--logs", str(log), "--output", str(tmp_path / "review"), "--below", "0.5"]) == cli.ERROR
    assert "The data cannot be read: " in capsys.readouterr().err
