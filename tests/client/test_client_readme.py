"""The examples of client/README.md run as they are written, but for the address."""

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from htr_client import pages
from htr_client.testing import ALPHABET, png

CLIENT = Path(__file__).parents[2] / "client"
EXAMPLES = re.findall(r"```python\n(.*?)```", (CLIENT / "README.md").read_text("utf-8"), re.DOTALL)

ASK = """

from fastapi.testclient import TestClient

with TestClient(app) as web:
    answer = web.post("/transcribe", content=IMAGE)
    assert answer.status_code == 200 and answer.json()["text"] == "webservice", answer.text
    assert answer.json()["model_version"] == 1
    answer = web.post("/transcribe", content=b"rubbish")
    assert answer.status_code == 422 and "Not an image" in answer.text
    counted = 'htr_client_images_total{model="htr",version="1",outcome="ok"} 1'
    assert counted in web.get("/metrics").text.splitlines()
    app.state.htr.model = "nope"
    assert web.post("/transcribe", content=IMAGE).status_code == 500
print("asked")
"""


def example(server, containing):
    [code] = [code for code in EXAMPLES if containing in code]
    return code.replace("localhost:8500", server.address)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    for name, text in (("word.png", "word"), ("words/1.png", "one"), ("words/3.png", "three")):
        (tmp_path / name).write_bytes(png(text))
    (tmp_path / "words" / "2.png").write_bytes(b"rubbish")
    return tmp_path


def test_request_log(server, folder, capsys):
    code = example(server, "RequestLog(").replace("rate=0.05", "rate=1")
    exec(code, {})
    assert "LogCounts(seen=1, written=1, dropped=0, failed=0)" in capsys.readouterr().out
    assert list((folder / "requests").glob("*.csv"))


def test_quickstart(server, folder, capsys):
    exec(example(server, 'transcribe("word.png")'), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("word 0.") and re.fullmatch(r"w 0\.9 [\d.]+ [\d.]+", lines[1])


def test_many(server, folder, capsys):
    exec(example(server, "sorted(Path"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("1.png one") and "Not an image" in lines[1] and lines[2].endswith("3.png three")


def test_pages(server, folder, capsys):
    grey = np.full((400, 300), 255, np.uint8)
    for bottom in (100, 200, 300):
        grey[bottom - 20 : bottom, 50:250] = 0
    cv2.imwrite("page.jpg", grey)
    exec(example(server, "transcribe_page"), {})
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert len(pages.read((folder / "page.xml").read_bytes()).lines) == 3


def test_testing(server):
    exec(example(server, "FakeServer("), {})


def test_decoders(server, folder):
    server.model.alphabets[1] = [*ALPHABET, *"AHJ"]  # a lexicon has words that the model can write
    names = {}
    exec(example(server, "PrefixBeamSearch(\n"), names)
    with names["client"] as client:
        assert client.transcribe("word.png").text


def test_settings(server, folder):
    code = example(server, "metadata=")
    code = code.replace('["10.0.0.1:8500", "10.0.0.2:8500"]', repr([server.address]))
    code = re.sub(r"    tls=.*\n", "", code)
    names = {}
    exec(code, names)
    with names["client"] as client:
        assert client.transcribe("word.png").text == "word"
    assert server.model.metadata[0]["x-request-id"] == "42"


def service(server):
    return f"IMAGE = {png('webservice')!r}\n" + example(server, "FastAPI(") + ASK


def test_web_service(server):
    done = subprocess.run([sys.executable, "-c", service(server)], capture_output=True, text=True)
    assert done.stdout == "asked\n", done.stderr
