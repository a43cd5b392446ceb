"""What is typed on the page to try the model, in a real browser."""

import pytest
from test_serving_ui import ASKED

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
