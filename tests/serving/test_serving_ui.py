"""The page to try the model: in a real browser, and what its server refuses."""

import base64
import csv
import http.client
import json
import os
import socket
import struct
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from htr_client import HtrClient
from htr_client.testing import png
from pipeline import cli
from serving import ui
from serving.status import ServingError
from tests.conftest import until

pytestmark = pytest.mark.either_stack

ASKED = "!window.dispatchEvent(new Event('beforeunload', {cancelable: true}))"  # whether whoever leaves is asked


def post(page, body, headers=None, path="/transcribe", method="POST"):
    connection = http.client.HTTPConnection(page.address, timeout=30)
    connection.request(method, path, body, {"Content-Type": "image/png", **(headers or {})})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_a_browser_that_goes_away_is_no_news_and_a_defect_is(page, caplog, capfd, monkeypatch):
    with socket.create_connection(page.address.split(":")) as gone:
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends with a reset
        gone.sendall(b"POST /transcribe HTTP/1.1\r\nHost: %b\r\nContent-Length: 9\r\n\r\n" % page.address.encode())
    assert post(page, png("word"))[0] == 200
    assert not caplog.records and capfd.readouterr() == ("", "")
    monkeypatch.setattr(ui, "inspect", None)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        post(page, png("word"))
    until(lambda: "could not answer" in caplog.text)
    assert "TypeError" in caplog.text


def text_of(browser):
    until(lambda: browser.evaluate("at('busy').textContent === '' && !at('result').hidden"))
    return browser.evaluate("at('text').textContent")


def test_chosen_image_is_read_and_its_characters_are_where_they_stand(model, page, browser, tmp_path):
    (tmp_path / "word.png").write_bytes(png("word"))  # blocks of four columns, a white one after each
    browser.open(f"http://{page.address}/")
    browser.choose_file("#file", tmp_path / "word.png")
    assert text_of(browser) == "word"
    assert browser.evaluate("[...document.querySelectorAll('li b')].map(e => e.textContent).join('')") == "word"
    assert all(
        s.endswith(" %") for s in browser.evaluate("[...document.querySelectorAll('li span')].map(e => e.textContent)")
    )
    until(lambda: browser.evaluate("at('image').complete && at('image').naturalWidth") == 32)
    # Centres of the marks as shares of the image's width, measured on the screen.
    centres = browser.evaluate("""(() => { const box = at('image').getBoundingClientRect();
        return [...document.querySelectorAll('rect')].map(e => e.getBoundingClientRect())
            .map(r => ((r.left + r.right) / 2 - box.left) / box.width); })()""")  # fmt: skip
    with HtrClient(model.address) as client:
        spans = [character.span for character in client.transcribe(tmp_path / "word.png").characters]
    assert centres == pytest.approx([(left + right) / 2 / 32 for left, right in spans], abs=0.01)
    assert "Model htr, version 1" in browser.evaluate("at('about').textContent")
    browser.evaluate("document.querySelector('li').focus()")
    assert browser.evaluate("document.querySelectorAll('rect.lit').length") == 1
    assert browser.errors == []


def labels(folder):
    """Rows of all label files of a folder, in the order of the files' names."""
    rows = []
    for path in sorted(folder.glob("labels*.csv"), key=lambda path: path.stem):
        with open(path, encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    return rows


def test_words_are_corrected_and_become_training_data(page, browser, tmp_path, capsys):
    browser.open(f"http://{page.address}/")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for name, text in (("a.png", ' one,  "two" '), ("b.png", ""), ("c.png", "three")):
        (tmp_path / name).write_bytes(png("word"))
        browser.choose_file("#file", tmp_path / name)
        text_of(browser)
        until(lambda name=name: browser.evaluate("label.name") == name)
        assert browser.evaluate("at('label-text').value") == "word"
        browser.evaluate(f"at('label-text').value = {json.dumps(text)}; at('label').requestSubmit()")
    # As one that was drawn or pasted: it comes from no file, and is saved too.
    answer = {"text": "ink", "confidence": 1, "characters": [], "width": 32, "height": 16}
    browser.evaluate(f"show({json.dumps(answer)}, new Blob([label.image], {{type: 'image/png'}}))")
    assert browser.evaluate(f"at('label').requestSubmit(); {ASKED}"), "who leaves without saving is asked"
    assert not browser.evaluate(f"at('save-csv').click(); {ASKED}")
    assert browser.evaluate("at('kept').textContent") == "Images in the CSV: 3"
    until(lambda: list(tmp_path.glob("labels-*.csv")) and len(list(tmp_path.glob("word-*.png"))) == 1)
    rows = labels(tmp_path)
    assert [row["text"] for row in rows] == ['one, "two"', "three", "ink"]
    assert all((tmp_path / row["filename"]).read_bytes() == png("word") for row in rows)
    # Those of a later visit join them, beside labels that were there before.
    (tmp_path / "labels.csv").write_text("filename,text\nb.png,here before\n")
    time.sleep(1)  # else the visits are of the same second
    browser.open("about:blank")
    browser.open(f"http://{page.address}/")
    (tmp_path / "d.png").write_bytes(png("word"))
    browser.choose_file("#file", tmp_path / "d.png")
    text_of(browser)
    browser.evaluate("at('label-text').value = 'later'; at('label').requestSubmit(); at('save-csv').click()")
    until(lambda: len(list(tmp_path.glob("labels-*.csv"))) == 2)
    assert [row["text"] for row in labels(tmp_path)] == ["here before", 'one, "two"', "three", "ink", "later"]
    cli.main(["check", "--data", str(tmp_path)])
    assert "5 rows" in capsys.readouterr().out
    assert browser.errors == []


def test_images_of_two_folders_with_one_name_are_both_kept(page, browser, tmp_path):
    browser.open(f"http://{page.address}/")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for folder, text in (("x", "one"), ("y", "second"), ("x", "first"), ("y", "")):
        (tmp_path / folder).mkdir(exist_ok=True)
        if not (image := tmp_path / folder / "0001.png").exists():
            image.write_bytes(png(text))
        browser.choose_file("#file", image)
        size = image.stat().st_size
        until(lambda size=size: browser.evaluate("label?.image.size") == size)
        browser.evaluate(f"at('label-text').value = {json.dumps(text)}; at('label').requestSubmit()")
        if text == "second":
            note = browser.evaluate("at('kept').textContent")
            assert note.startswith("Images for the CSV: 2. Another one is called 0001.png: this one is saved as 0001-2")
    assert browser.evaluate("[...labels.keys()]") == ["0001.png"], "the one without text is the second"
    browser.evaluate("at('label-text').value = 'second'; at('label').requestSubmit(); at('save-csv').click()")
    until(lambda: list(tmp_path.glob("labels-*.csv")) and len(list(tmp_path.glob("0001-*.png"))) == 1)
    first, second = labels(tmp_path)
    assert (first["filename"], first["text"], second["text"]) == ("0001.png", "first", "second")
    assert (tmp_path / second["filename"]).read_bytes() == (tmp_path / "y" / "0001.png").read_bytes()
    assert browser.errors == []


@pytest.mark.parametrize(
    ("confidence", "level", "words"),
    [
        (0.99, "good", "Confident: 99 %"),
        (0.7, "fair", "Please check: 70 %"),
        (0.06, "bad", "Unsure, probably wrong: 6 %"),
    ],
)
def test_low_confidence_is_said_in_words_and_looks_another_way(page, browser, confidence, level, words):
    browser.open(f"http://{page.address}/")
    answer = {"text": "Anna", "confidence": confidence, "characters": [], "width": 120, "height": 40, "model": "htr",
              "version": 7, "milliseconds": 12.3}  # fmt: skip
    browser.evaluate(f"show({json.dumps(answer)}, new Blob([]))")
    assert browser.evaluate("at('level').textContent") == words
    assert browser.evaluate("at('suspicions').hidden")
    looks = "[at('level'), at('text')].map(e => [getComputedStyle(e).borderStyle, getComputedStyle(e).color].join())"
    found = browser.evaluate(looks)
    other = {**answer, "confidence": 0.7 if level == "good" else 0.99}
    browser.evaluate(f"show({json.dumps(other)}, new Blob([]))")
    assert browser.evaluate(looks)[0] != found[0]


def test_what_the_answer_suspects_is_listed(page, browser):
    browser.open(f"http://{page.address}/")
    answer = {"text": "", "confidence": 0.9, "characters": [], "width": 9, "height": 9, "model": "htr", "version": 7,
              "milliseconds": 1, "suspicions": ["The image is blank.", "<b>It is inverted.</b>"]}  # fmt: skip
    browser.evaluate(f"show({json.dumps(answer)}, new Blob([]))")
    listed = browser.evaluate("[...document.querySelectorAll('#suspicions li')].map(e => e.textContent)")
    assert listed == answer["suspicions"] and not browser.evaluate("at('suspicions').hidden")
    assert browser.evaluate("at('level').textContent") == "Please check: 90 %"
    assert browser.evaluate("at('copy').disabled && at('text').textContent") == "(no text found)"


def test_text_is_copied(page, browser, tmp_path):
    (tmp_path / "word.png").write_bytes(png("word"))
    browser.open(f"http://{page.address}/")
    origin = f"http://{page.address}"
    browser.call("Browser.grantPermissions", origin=origin, permissions=["clipboardReadWrite"])
    browser.choose_file("#file", tmp_path / "word.png")
    text_of(browser)
    browser.evaluate("at('copy').click()")
    until(lambda: browser.evaluate("at('copied').textContent") == "Copied")
    assert browser.evaluate("navigator.clipboard.readText()") == "word"


def test_the_model_is_named_before_the_first_image(page, model, browser):
    browser.open(f"http://{page.address}/")
    until(lambda: browser.evaluate("at('model').textContent"))
    assert browser.evaluate("at('model').textContent") == "Model htr, version 1"
    status, body, _ = post(page, None, path="/model", method="GET")
    assert status == 200 and json.loads(body) == {"model": "htr", "version": 1, "pages": True}
    assert browser.evaluate("at('no-pages').hidden")
    model.stop()
    status, body, _ = post(page, None, path="/model", method="GET")
    assert status == 503 and json.loads(body)["error"]


@pytest.fixture
def scan(tmp_path):
    """A page of three dark bars, which the server's line finder takes for lines."""
    grey = np.full((700, 900), 240, np.uint8)
    for bottom in (150, 250, 350):
        grey[bottom - 30 : bottom, 100:500] = 30
    path = tmp_path / "scans" / "scan 1.png"
    path.parent.mkdir()
    path.write_bytes(cv2.imencode(".png", grey)[1].tobytes())
    return path


def test_lines_of_a_page_are_corrected_and_become_training_data(page, browser, scan, tmp_path):
    browser.open(f"http://{page.address}/")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(scan.parent))
    browser.choose_file("#file", scan)
    until(lambda: browser.evaluate("!at('page').hidden && at('scan').complete && !at('cut').hidden"))
    assert browser.evaluate("at('result').hidden && at('save').disabled")
    texts = browser.evaluate("at('page-text').textContent").split("\n")
    assert len(texts) == 3 and all(texts)
    # Where the second bar stands on the screen.
    browser.evaluate("at('outlines').children[1].scrollIntoView({block: 'center'})")
    x, y = browser.evaluate("""(() => { const box = at('scan').getBoundingClientRect();
        return [box.left + 300 / 900 * box.width, box.top + 235 / 700 * box.height]; })()""")  # fmt: skip
    browser.drag([(x, y)])
    assert browser.evaluate("at('line-name').textContent").startswith("Line 2 of 3, ")
    assert browser.evaluate("at('line-text').value") == texts[1]
    assert browser.evaluate("document.activeElement.id") == "line-text"
    cut = browser.evaluate(
        "[at('cut').width, at('cut').height, ...at('cut').getContext('2d').getImageData(9, 20, 1, 1).data]"
    )
    assert cut[0] > 300 and cut[1] < 100 and cut[2] < 60, "the bar fills the cut"
    browser.evaluate(
        "at('line-text').value = ' Gr\u00fc\u00dfe  aus <Wien> '; at('line-text').dispatchEvent(new Event('input'))"
    )
    browser.evaluate("at('line').requestSubmit()")
    assert browser.evaluate("at('line-name').textContent").startswith("Line 3 of 3, ")
    assert browser.evaluate("at('page-text').textContent") == f"{texts[0]}\nGr\u00fc\u00dfe aus <Wien>\n{texts[2]}"
    browser.evaluate("at('line').requestSubmit()")
    assert browser.evaluate(ASKED), "who leaves without saving is asked"
    browser.evaluate("at('save').click()")
    until(lambda: browser.evaluate("at('saved').textContent") == "Saved 2 of 3 lines")
    assert not browser.evaluate(ASKED)
    saved = scan.with_suffix(".xml")
    until(lambda: saved.exists() and saved.read_bytes().endswith(b"</PcGts>\n"))
    assert browser.errors == []
    assert cli.main(["import", str(scan.parent), "--output", str(tmp_path / "lines")]) == 0
    with open(tmp_path / "lines" / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["Gr\u00fc\u00dfe aus <Wien>", texts[2]], (
        "what was looked at, and no guesses"
    )
    assert all(cv2.imread(str(tmp_path / "lines" / row["filename"])).shape[1] > 300 for row in rows)


def test_a_word_after_a_page(page, browser, scan, tmp_path):
    (tmp_path / "word.png").write_bytes(png("word"))
    browser.open(f"http://{page.address}/", 360)
    browser.choose_file("#file", scan)
    until(lambda: browser.evaluate("!at('page').hidden"))
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    if folder := os.environ.get("HTR_SCREENSHOTS"):
        browser.screenshot(Path(folder) / "ui-page.png")
    browser.choose_file("#file", tmp_path / "word.png")
    until(lambda: browser.evaluate("!at('result').hidden && at('page').hidden"))
    assert text_of(browser) == "word"


def test_corrections_of_a_page_are_not_replaced_unasked(page, browser, scan, tmp_path):
    """By a second image that is dropped or pasted by mistake; another file than an image takes nothing away."""
    word, other = tmp_path / "word.png", tmp_path / "scan.pdf"
    word.write_bytes(png("word"))
    other.write_bytes(b"%PDF-1.7\n")
    browser.open(f"http://{page.address}/")
    browser.choose_file("#file", scan)
    until(lambda: browser.evaluate("!at('page').hidden"))
    browser.evaluate("asked = []; answer = false; confirm = question => { asked.push(question); return answer; }")
    browser.evaluate("at('line-text').value = 'right'; at('line').requestSubmit()")
    browser.choose_file("#file", word)
    until(lambda: "corrections of this page are in no file yet" in browser.evaluate("asked.join()"))
    assert browser.evaluate("at('busy').textContent === '' && !at('page').hidden && sheet.texts[0]") == "right"
    browser.evaluate("answer = true")
    browser.choose_file("#file", other)
    until(lambda: browser.evaluate("!at('error').hidden"))
    assert browser.evaluate("!at('page').hidden && sheet.texts[0]") == "right" and browser.evaluate(ASKED)
    browser.choose_file("#file", word)
    assert text_of(browser) == "word" and browser.evaluate("at('page').hidden && asked.length") == 3
    assert not browser.evaluate(ASKED)


def test_without_a_line_finder_the_page_says_how_to_get_one(model, page, browser, scan):
    model.model.has_line_finder = False
    browser.open(f"http://{page.address}/")
    until(lambda: not browser.evaluate("at('no-pages').hidden"))
    assert "htr serve --ui --pages" in browser.evaluate("at('no-pages').textContent")
    browser.choose_file("#file", scan)
    text_of(browser)
    assert len(model.model.seen) == 1, "the whole image, as one line"
    assert browser.evaluate("at('suspicions').hidden"), "a word that is drawn has the shape of a page, too"


@pytest.mark.parametrize(
    "change", [{"lines": [{}]}, {"extra": 1}, {"width": "wide"}, {"lines": [{"polygon": [["a", 1]]}]}]
)
def test_what_is_no_page_is_not_written(page, scan, change):
    found = json.loads(post(page, scan.read_bytes())[1])["page"]
    json_type = {"Content-Type": "application/json"}
    status, body, _ = post(page, json.dumps(found), json_type, path="/page-xml")
    written = json.loads(body)["xml"]
    assert status == 200 and "<PcGts" in written
    assert found["lines"][0]["confidence"] is not None
    assert "conf=" not in written, "what a person has confirmed is no longer a model's"
    if "lines" in change:
        change = {"lines": [{**found["lines"][0], **line} if line else {} for line in change["lines"]]}
    status, body, _ = post(page, json.dumps({**found, **change}), json_type, path="/page-xml")
    assert status == 422 and "no page" in json.loads(body)["error"]
    assert post(page, 100_000 * "[", json_type, path="/page-xml")[0] == 422
    # A form on a page from elsewhere can send text only.
    assert post(page, json.dumps(found), {"Content-Type": "text/plain"}, path="/page-xml")[0] == 415


def test_dropped_image_is_read(page, browser):
    browser.open(f"http://{page.address}/")
    content = base64.b64encode(png("drop")).decode()
    browser.evaluate(f"""(() => {{
        const bytes = Uint8Array.from(atob('{content}'), c => c.charCodeAt(0)), data = new DataTransfer();
        data.items.add(new File([bytes], 'a.png', {{type: 'image/png'}}));
        document.body.dispatchEvent(new DragEvent('drop', {{dataTransfer: data, bubbles: true}})); }})()""")
    assert text_of(browser) == "drop"


def test_drawing_is_cut_to_the_ink_and_read(page, model, browser):
    browser.open(f"http://{page.address}/")
    assert browser.evaluate("at('read').disabled")
    left, top, width = browser.evaluate(
        "(() => { const b = pad.getBoundingClientRect(); return [b.left, b.top, b.width] })()"
    )
    scale = 900 / width
    browser.drag([(left + 100, top + 50), (left + 150, top + 90), (left + 200, top + 50)])
    browser.evaluate("at('read').click()")
    until(lambda: model.model.seen)
    sent = cv2.imdecode(np.frombuffer(model.model.seen[-1], np.uint8), cv2.IMREAD_GRAYSCALE)
    assert sent.shape[1] == pytest.approx(100 * scale + 50, abs=2) and sent.shape[0] == pytest.approx(
        40 * scale + 50, abs=2
    )
    assert sent.min() < 60 and sent[0].min() == 255
    browser.evaluate("at('clear').click()")
    assert browser.evaluate("at('read').disabled")


def test_errors_are_readable(page, model, browser, tmp_path):
    (tmp_path / "letter.png").write_bytes(b"Dear Sir or Madam")
    browser.open(f"http://{page.address}/")
    browser.choose_file("#file", tmp_path / "letter.png")
    until(lambda: not browser.evaluate("at('error').hidden"))
    assert "Not an image: it starts with 'Dear Sir'." in browser.evaluate("at('error').textContent")
    assert browser.evaluate("at('result').hidden && at('error').getAttribute('role')") == "alert"
    # Stopping the server would not do: browsers open spare connections, on which its threads still answer.
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.call("Network.enable")
    browser.call("Network.emulateNetworkConditions", offline=True, **network)
    browser.choose_file("#file", tmp_path / "letter.png")
    until(lambda: "cannot reach" in browser.evaluate("at('error').textContent"))
    browser.call("Network.emulateNetworkConditions", offline=False, **network)


@pytest.mark.parametrize("width", [360, 1000])
def test_page_fits_a_phone_and_a_desk(page, browser, tmp_path, width):
    (tmp_path / "word.png").write_bytes(png("abcdefghijklmnopqrstuvwxyz" * 3))
    browser.open(f"http://{page.address}/", width)
    browser.choose_file("#file", tmp_path / "word.png")
    text_of(browser)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("HTR_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"ui-{width}.png")


def nameless(browser):
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "img", "image", "heading", "list", "region")
    return [
        node["role"]["value"] for node in tree
        if not node["ignored"] and node["role"]["value"] in roles and not node["name"]["value"]
    ]  # fmt: skip


def test_every_control_has_a_name(page, browser, scan, tmp_path):
    (tmp_path / "word.png").write_bytes(png("word"))
    browser.open(f"http://{page.address}/")
    assert nameless(browser) == []
    browser.choose_file("#file", tmp_path / "word.png")
    text_of(browser)
    assert nameless(browser) == []
    # The list of what the answer suspects as well.
    answer = {"text": "a", "confidence": 0.9, "characters": [], "width": 9, "height": 9, "suspicions": ["blank"]}
    browser.evaluate(f"show({json.dumps(answer)}, new Blob([]))")
    assert nameless(browser) == []
    browser.choose_file("#file", scan)
    until(lambda: browser.evaluate("!at('page').hidden && !at('cut').hidden"))
    assert browser.evaluate("at('outlines').children.length") == 3
    assert nameless(browser) == []


def test_page_needs_nothing_from_elsewhere(page):
    status, body, headers = post(page, None, path="/", method="GET")
    assert status == 200 and b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_answer_is_the_clients(page):
    status, body, _ = post(page, png("answer"))
    answer = json.loads(body)
    assert status == 200 and answer["text"] == "answer" and answer["version"] == 1 and answer["width"] == 48
    edges = [edge for c in answer["characters"] for edge in c["span"]]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= 48
    assert answer["suspicions"] == []
    (suspicion,) = json.loads(post(page, cv2.imencode(".png", np.full((16, 64), 250, np.uint8))[1].tobytes())[1])[
        "suspicions"
    ]
    assert suspicion.startswith("The image shows nothing")


@pytest.mark.parametrize(
    ("status", "change", "message"),
    [
        (413, {"headers": {"Content-Length": str(ui.MAX_BYTES + 1)}, "body": b""}, "limit"),
        (415, {"headers": {"Content-Type": "text/plain"}}, "image/png"),
        (411, {"headers": {"Content-Length": "many"}}, "Content-Length"),
        (411, {"headers": {"Content-Length": "²"}}, "Content-Length"),
        (403, {"headers": {"Host": "evil.example"}}, "this machine"),
        (404, {"path": "/other"}, "/transcribe"),
        (422, {"body": b""}, "no bytes"),
        (422, {"body": png("ab")[:-9]}, "end"),
    ],
)
def test_refusals_say_why(page, model, status, change, message):
    found, body, _ = post(page, **{"body": png("ab"), **change})
    assert found == status and message in json.loads(body)["error"]
    assert model.model.seen == []


def test_server_that_is_away_is_named(page, model):
    model.stop()
    status, body, _ = post(page, png("ab"))
    assert status == 503 and json.loads(body)["error"]


def test_taken_port_is_a_serving_error(page, model):
    advice = r"^UNAVAILABLE: cannot listen on 127\.0\.0\.1:\d+: Address already in use\. .*port with --ui_port \(-1"
    with pytest.raises(ServingError, match=advice):
        ui.UiServer(model.address, "htr", "127.0.0.1", int(page.address.rsplit(":", 1)[1]))
