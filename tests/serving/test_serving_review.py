"""`htr review` against a server, and its page in a real browser."""

import csv

import pytest

from htr_client.testing import png
from pipeline import cli


def test_review_says_how_far_it_is_where_the_server_takes_its_time(model, tmp_path, capsys):
    (tmp_path / "word.png").write_bytes(png("word"))
    model.model.delay = 2.5
    arguments = [str(tmp_path / "word.png"), "--server", model.address, "--output", str(tmp_path / "review")]
    assert cli.main(["review", *arguments, "--below", "100%"]) == 0
    assert "Asking the server: 0 images answered (0:02 elapsed)" in capsys.readouterr().err


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
    assert list(found[0]) == ["filename", "text", "split", "guess", "confidence", "model_version", "source"]
    assert {row["split"] for row in found} == {"train"}
