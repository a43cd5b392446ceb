"""`htr review` against a server, and its page in a real browser."""

import contextlib
import csv
import functools
import itertools
import time
from pathlib import Path

import pytest

from components.tools.review import review
from htr_client import RequestLog
from htr_client.testing import png
from pipeline import cli
from tests.conftest import drawn_image, encode, until, write_dataset


def test_review_says_how_far_it_is_where_the_server_takes_its_time(model, tmp_path, capsys):
    (tmp_path / "word.png").write_bytes(png("word"))
    model.model.delay = 2.5
    arguments = [str(tmp_path / "word.png"), "--server", model.address, "--output", str(tmp_path / "review")]
    assert cli.main(["review", *arguments, "--below", "100%"]) == 0
    assert "Asking the server: 0 images answered (0:02 elapsed)" in capsys.readouterr().err


def test_the_server_is_not_asked_about_labelled_images(model, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    for text in ("ab", "cd", "ef"):
        (scans / f"{text}.png").write_bytes(png(text))
    names = tmp_path / "names"
    names.mkdir()
    (names / "x.png").write_bytes(png("ab"))
    write_dataset(names, [{"filename": "x.png", "text": "ab"}])
    command = ["review", str(scans), "--server", model.address, "--below", "1", "--data", str(names), "--output"]
    assert cli.main([*command, str(tmp_path / "review")]) == 0
    with open(tmp_path / "review" / "labels.csv", encoding="utf-8", newline="") as file:
        assert {Path(row["source"]).name for row in csv.DictReader(file)} == {"cd.png", "ef.png"}
    said = capsys.readouterr()
    assert "left out: 1 image labelled already\n2 images in " in said.out


@pytest.mark.either_stack
def test_review_asks_the_server_and_its_page_saves_what_was_corrected(model, browser, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for text in ("ab", "cd", "ef"):
        (folder / f"{text}.png").write_bytes(png(text))
    (folder / "broken.png").write_bytes(b"rubbish")
    output = tmp_path / "review"
    arguments = [str(folder), "--server", model.address, "--output", str(output), "--below", "1"]
    assert cli.main(["review", *arguments]) == 0
    browser.open((output / "review.html").as_uri())
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")
    browser.evaluate("""
        URL.createObjectURL = blob => { window.saved = blob; return '#'; };
        const [first, second] = document.querySelectorAll('input[type=text]');
        first.value = 'x, "y"'; first.dispatchEvent(new Event('input'));
        second.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}));
        document.querySelector('button').click();""")
    lines = browser.evaluate("saved.text()").splitlines()
    assert browser.evaluate("document.getElementById('count').textContent") == "2 of 3 looked at"
    found = list(csv.DictReader(lines))
    assert [row["text"] for row in found] == ['x, "y"', found[1]["guess"]] and found[0]["guess"] in ("ab", "cd", "ef")
    assert tuple(found[0]) == review.FIELDS
    assert {(row["split"], row["labelling_model"]) for row in found} == {("train", "")}, "a person has looked at them"


NUMBERS = itertools.count()  # so that no two tests have the same images


def tried_again(test):
    """Runs a test up to three times: on a loaded machine Chromium now and then drops what a page has stored."""

    @functools.wraps(test)
    def run(*args, **fixtures):
        for _ in range(2):
            with contextlib.suppress(AssertionError):
                return test(*args, **fixtures)
        return test(*args, **fixtures)

    return run


def keeps(browser, folder):
    """Waits until the browser keeps what pages give it: Chromium drops it while a new profile is being opened."""
    folder.mkdir(exist_ok=True)
    page = folder / "page.html"
    page.write_text("<!doctype html>", encoding="utf-8")
    numbers = itertools.count()

    def kept():
        with browser.window() as other:
            browser.open(page.as_uri())
            other.open(page.as_uri())
            value = str(next(numbers))
            other.evaluate("addEventListener('storage', event => { window.heard = event.newValue; })")
            browser.evaluate(f"localStorage.setItem('number', '{value}')")
            browser.open("about:blank")
            time.sleep(0.5)
            browser.open(page.as_uri())
            return (browser.evaluate("localStorage.getItem('number')"), other.evaluate("window.heard")) == (
                value,
                value,
            )

    until(kept, 60)
    return browser


@pytest.fixture(scope="module")
def keeping(browser, tmp_path_factory):
    return keeps(browser, tmp_path_factory.mktemp("keeping"))


@pytest.fixture
def make(tmp_path):
    """Function that makes a folder with the page for some guesses, each of an image of its own."""

    def made(*guesses):
        log, output = tmp_path / f"log{next(NUMBERS)}", tmp_path / f"review{next(NUMBERS)}"
        with contextlib.closing(RequestLog(log, rate=1)) as written:
            for number, guess in enumerate(guesses):
                written.offer(encode(drawn_image(80, 20, next(NUMBERS))), guess, 0.01 * number, "htr", 7)
        assert cli.main(["review", "--logs", str(log), "--output", str(output)]) == 0
        return output

    return made


def visit(browser, folder):
    """Opens the page of a folder, in which what it saves takes the place of its labels."""
    browser.open("about:blank")  # else the page may be the one that is open already
    browser.open((folder / "review.html").as_uri())
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    return count(browser)


def count(browser):
    return browser.evaluate("document.getElementById('count').textContent")


def said(browser):
    return browser.evaluate("document.getElementById('said').textContent")


def write(browser, number, text):
    browser.evaluate(f"""{{ const text = document.querySelectorAll('input[type=text]')[{number}];
        text.value = {text!r}; text.dispatchEvent(new Event('input')); }}""")


def save(browser, folder):
    (folder / "labels.csv").unlink(missing_ok=True)
    browser.evaluate("document.querySelector('button').click()")
    until(lambda: (folder / "labels.csv").exists() and (folder / "labels.csv").read_bytes().endswith(b"\r\n"))
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        return {row["guess"]: row["text"] for row in csv.DictReader(file)}


def open_file(browser, path):
    browser.evaluate("document.getElementById('said').textContent = ''")
    browser.choose_file("#file", path)
    until(lambda: said(browser))
    return said(browser)


@tried_again
def test_a_second_sitting_goes_on_where_the_first_one_ended(keeping, make):
    folder = make("a", "b", "c", "d")
    assert visit(keeping, folder) == "0 of 4 looked at" and not said(keeping)
    write(keeping, 0, 'A, "1"')
    keeping.evaluate("document.querySelectorAll('input[type=checkbox]')[1].click()")
    assert save(keeping, folder) == {"a": 'A, "1"', "b": "UNREADABLE"}
    assert said(keeping).startswith("2 of 4 rows are saved. If the labels.csv beside this page has rows of another")
    write(keeping, 2, "kept, though nobody saved it")
    assert visit(keeping, folder) == "3 of 4 looked at"
    assert said(keeping) == "3 of 4 images were looked at before, in this browser."
    assert keeping.evaluate("document.activeElement === document.querySelectorAll('input[type=text]')[3]")
    write(keeping, 3, "D")
    assert save(keeping, folder) == {
        "a": 'A, "1"', "b": "UNREADABLE", "c": "kept, though nobody saved it", "d": "D"
    }  # fmt: skip
    assert said(keeping) == "4 of 4 rows are saved."


@tried_again
def test_another_browser_goes_on_with_the_saved_file(browser, make, tmp_path):
    folder = make("a", "b", "c", "d", "e")
    visit(browser, folder)
    assert open_file(browser, folder / "labels.csv") == "Rows of labels.csv that people have looked at: 0."
    write(browser, 0, 'A; "1"')
    write(browser, 1, "B")
    browser.evaluate("document.querySelectorAll('input[type=checkbox]')[2].click()")
    saved = save(browser, folder)
    profile = tmp_path / f"other{next(NUMBERS)}"
    profile.mkdir()
    other = type(browser)(profile)
    try:
        keeps(other, profile)
        assert visit(other, folder) == "0 of 5 looked at"
        write(other, 1, "mine")
        write(other, 3, "D")
        other.evaluate("asked = []; confirm = question => { asked.push(question); return answer; }; answer = false")
        assert open_file(other, folder / "labels.csv") == "Rows of labels.csv that people have looked at: 3."
        (question,) = other.evaluate("asked")
        assert question.startswith("The file and this page have different texts of image 2.")
        assert count(other) == "4 of 5 looked at"
        assert save(other, folder) == saved | {"b": "mine", "d": "D"}
        assert said(other) == "4 of 5 rows are saved.", "the other browser's rows are in it"
        # As a spreadsheet saves it, with a text that was corrected there.
        with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        rows[2][1] = "B again"
        with open(tmp_path / "excel.csv", "w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file, delimiter=";").writerows(rows)
        other.evaluate("answer = true")
        open_file(other, tmp_path / "excel.csv")
        assert save(other, folder) == saved | {"b": "B again", "d": "D"}
        assert visit(other, folder) == "4 of 5 looked at", "what was opened is kept, too"
        assert other.errors == []
    finally:
        other.close()


@tried_again
def test_a_page_that_was_made_anew_takes_nothing_of_the_one_before(keeping, make):
    before, folder = make("a", "b"), make("a", "b", "c")
    visit(keeping, before)
    write(keeping, 0, "of the page before")
    save(keeping, before)
    for name in ("images", "review.html", "labels.csv"):  # in its place
        (before / name).rename(before / f"old-{name}")
        (folder / name).rename(before / name)
    for _ in range(2):
        assert visit(keeping, before) == "0 of 3 looked at"
        assert said(keeping).endswith("whose corrections are not taken over; rows of it in this browser: 1.")
    assert open_file(keeping, before / "old-labels.csv") == (
        "Rows of old-labels.csv that people have looked at: 0. Rows of another page, which are left out: 1."
    )
    assert count(keeping) == "0 of 3 looked at"
    write(keeping, 2, "of the new one")
    assert visit(keeping, before) == "1 of 3 looked at" and "before, in this browser" in said(keeping)


def test_files_that_are_no_saved_labels_change_nothing(browser, make, tmp_path):
    folder = make("a", "b")
    visit(browser, folder)
    name = f"images/{sorted((folder / 'images').iterdir())[0].name}"
    for content, why in (
        (f"filename,text\n{name},\xe9\n".encode("latin-1"), "it is not UTF-8 text."),
        (b"file,text\n", "it does not begin with the column filename."),
        (f'filename,text\n{name},"x\n'.encode(), "a quotation mark in line 2 is not closed or not doubled."),
    ):
        (tmp_path / "odd.csv").write_bytes(content)
        assert open_file(browser, tmp_path / "odd.csv") == f"Nothing is taken from odd.csv: {why}"
        assert count(browser) == "0 of 2 looked at"


@tried_again
def test_two_windows_with_one_page_know_of_each_other(keeping, make):
    folder = make("a", "b", "c")
    visit(keeping, folder)
    with keeping.window() as second:
        visit(second, folder)
        write(keeping, 0, "A")
        write(second, 1, "B")
        until(lambda: count(keeping) == "2 of 3 looked at")
        until(lambda: count(second) == "2 of 3 looked at")
        texts = "[...document.querySelectorAll('input[type=text]')].map(text => text.value)"
        assert keeping.evaluate(texts) == second.evaluate(texts) == ["A", "B", "c"] and second.errors == []


def test_a_browser_that_keeps_nothing_says_so(browser, make):
    folder = make("a", "b")
    visit(browser, folder)
    browser.evaluate("Storage.prototype.setItem = () => { throw new Error('full'); }")
    write(browser, 0, "A")
    assert said(browser) == "This browser keeps nothing of this page, or no more: save before you close it."
    assert save(browser, folder) == {"a": "A"}
