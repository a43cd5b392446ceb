"""What is typed on the page to try the model, in a real browser."""

import base64
import json

import pytest
from test_serving_ui import ASKED, scan, text_of  # noqa: F401 - scan is a fixture

from htr_client.testing import png
from tests.conftest import until

pytestmark = pytest.mark.either_stack


def test_a_word_that_was_typed_without_enter_is_kept(page, browser, tmp_path):
    """As the text of a page's line is, whatever comes next: another image, one that fails, the end, the file."""
    browser.open(f"http://{page.address}/")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    (tmp_path / "broken.png").write_bytes(b"rubbish")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png("word"))
        browser.choose_file("#file", tmp_path / name)
        until(lambda name=name: browser.evaluate("label?.name") == name)
        assert browser.evaluate(ASKED) == (name == "b.png"), "what only the model has said is no label"
        browser.evaluate("at('label-text').select()")
        for letter in name.removesuffix(".png") + "x":
            browser.call("Input.insertText", text=letter)
    browser.choose_file("#file", tmp_path / "broken.png")
    until(lambda: browser.evaluate("at('result').hidden"))
    assert browser.evaluate("[...labels].map(([name, {text}]) => `${name} ${text}`).join()") == "a.png ax,b.png bx"
    assert browser.evaluate(ASKED)
    browser.evaluate("at('save-csv').click()")
    until(lambda: any(path.read_text().endswith("\n") for path in (tmp_path / "saved").glob("*.csv")))
    (saved,) = (tmp_path / "saved").glob("*.csv")
    assert saved.read_text().split() == ["filename,text", '"a.png","ax"', '"b.png","bx"']
    assert not browser.evaluate(ASKED) and browser.errors == []


def test_labels_can_be_saved_whatever_is_shown(page, browser, scan, tmp_path):  # noqa: F811
    """An image that fails and a page take the text from the screen; saving the labels needs no server either."""
    can_be_saved = "at('save-csv').checkVisibility() && !at('save-csv').disabled"
    browser.open(f"http://{page.address}/")
    (tmp_path / "word.png").write_bytes(png("word"))
    (tmp_path / "broken.png").write_bytes(b"rubbish")
    browser.choose_file("#file", tmp_path / "word.png")
    text_of(browser)
    assert not browser.evaluate(can_be_saved), "no label is kept yet"
    browser.evaluate("at('label-text').value = 'right'; at('label').requestSubmit()")
    assert browser.evaluate(can_be_saved)
    browser.choose_file("#file", tmp_path / "broken.png")
    until(lambda: browser.evaluate("!at('error').hidden && at('result').hidden"))
    assert browser.evaluate(can_be_saved) and browser.evaluate("at('kept').textContent") == "Images for the CSV: 1"
    browser.choose_file("#file", scan)
    until(lambda: browser.evaluate("!at('page').hidden"))
    assert browser.evaluate(can_be_saved) and browser.errors == []


def test_the_chosen_line_of_a_page_is_in_sight(page, browser):
    """Above the form with its text, which stays at the lower edge of the window."""
    browser.open(f"http://{page.address}/", 800, 700)
    lines = [
        {"text": f"{i}", "confidence": 1, "baseline": [[20, y], [780, y]],
         "polygon": [[20, y - 40], [780, y - 40], [780, y + 10], [20, y + 10]]}
        for i, y in enumerate(range(80, 2000, 90))
    ]  # fmt: skip
    found = {"page": {"width": 800, "height": 2000, "lines": lines}, "milliseconds": 1}
    browser.evaluate(f"""(() => {{ const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [800, 2000];
        canvas.toBlob(blob => showPage({json.dumps(found)}, blob)); }})()""")
    until(lambda: browser.evaluate("!at('page').hidden && at('scan').complete && at('scan').naturalWidth") == 800)
    for i in range(len(lines)):
        browser.evaluate("at('line').requestSubmit()")
        line = "document.querySelector('#outlines .chosen').getBoundingClientRect()"
        assert browser.evaluate(f"{line}.bottom <= at('line').getBoundingClientRect().top && {line}.top >= 0"), i


def test_of_several_files_the_first_is_taken_and_that_is_said(page, browser):
    browser.open(f"http://{page.address}/")
    content = base64.b64encode(png("first")).decode()
    browser.evaluate(f"""(() => {{
        const bytes = Uint8Array.from(atob('{content}'), c => c.charCodeAt(0)), data = new DataTransfer();
        for (const name of ['a.png', 'b.png']) data.items.add(new File([bytes], name, {{type: 'image/png'}}));
        document.body.dispatchEvent(new DragEvent('drop', {{dataTransfer: data, bubbles: true}})); }})()""")
    until(lambda: browser.evaluate("at('busy').textContent") == "The first of 2 files was taken")
    assert browser.evaluate("at('text').textContent") == "first"
