"""A page with what is shipped: its lines are found, read in order and written, with and without a server."""

import csv
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.base_model import packing
from components.common.metrics import count_errors
from components.tools.base_data.rendered_text.dataset import write_dataset
from htr_client import HtrClient, pages
from pipeline import cli
from pipeline.local_models import base_line_finder, local_client
from serving.server import EmbeddedServer

pytestmark = pytest.mark.slow

LEFT = [
    "Dear friend and neighbour,", "the letter came on Monday", "with all the good news that", "you had promised to us.",
    "We read it at the table,", "then went to the garden.",
]  # fmt: skip
RIGHT = [
    "In the other column", "there are five lines", "of the same hand, which", "come after the first",
    "column is at its end.",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of two columns in one hand, as PNG."""
    folder = tmp_path_factory.mktemp("page")
    write_dataset(folder / "lines", LEFT + RIGHT, seed=5, writers=1)
    with (folder / "lines" / "labels.csv").open(encoding="utf-8", newline="") as file:
        names = [row["filename"] for row in csv.DictReader(file)]
    grey = np.full((900, 1500), 235, np.uint8)
    for number, name in enumerate(names):
        line = cv2.imread(str(folder / "lines" / name), cv2.IMREAD_GRAYSCALE)
        line = cv2.resize(line, None, fx=52 / line.shape[0], fy=52 / line.shape[0], interpolation=cv2.INTER_AREA)
        column, row = divmod(number, len(LEFT))
        top, left = 90 + 110 * row, 80 + 740 * column
        width = min(line.shape[1], 600)
        place = grey[top : top + 52, left : left + width]
        np.minimum(place, line[:, :width], out=place)
    path = folder / "page.png"
    cv2.imwrite(str(path), grey)
    return path


def run(capfd, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    told = capfd.readouterr()
    return code, told.out, told.err


def test_the_shipped_line_finder_is_small():
    folder = packing.FOLDER / packing.PAGES
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000


def test_a_page_becomes_text_in_reading_order(page, tmp_path, capfd):
    code, out, _ = run(capfd, "read", page, "--workspace", tmp_path / "none")
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and [row[0] for row in rows] == [f"{page}:{n}" for n in range(1, len(rows) + 1)]
    assert len(rows) <= len(LEFT + RIGHT) + 2, "lines may be broken at wide gaps, but not all"
    errors = count_errors([" ".join(LEFT + RIGHT)], [" ".join(row[1] for row in rows)])  # in reading order
    assert errors.rate < 0.25, rows
    # A format of pages means pages, whatever else is said.
    _, out, _ = run(capfd, "read", page, "--workspace", tmp_path / "none", "--format", "page", "--kind", "line")
    found = pages.read(out.encode())
    assert [line.text for line in found.lines] == [row[1] for row in rows]
    in_left = [max(x for x, _ in line.baseline) < 760 for line in found.lines]
    assert in_left == sorted(in_left, reverse=True), "the left column comes first"


def test_a_server_and_this_process_read_the_same(page, tmp_path):
    options = {"model_name": "htr", "model_base_path": os.path.dirname(packing.unpack("line")), "port": 0}
    with local_client("none") as client:
        here = client.transcribe_page(page)
    # As `htr serve --pages` serves it until a line finder is pushed.
    options |= {
        "line_finder_base_path": str(tmp_path),
        "line_finder_fallback_base_path": os.path.dirname(base_line_finder()),
    }
    with (
        EmbeddedServer(**options) as server,
        HtrClient(server.address) as client,
    ):
        there = client.transcribe_page(page)
    assert [(line.text, line.baseline) for line in there.lines] == [(line.text, line.baseline) for line in here.lines]
    assert [line.confidence for line in there.lines] == pytest.approx(
        [line.confidence for line in here.lines], abs=1e-4
    )


def test_examples_of_the_document(page, tmp_path, monkeypatch, capsys):
    """The examples of docs/pages.md run as they stand: a page, one with PAGE XML, one step by step."""
    text = (Path(__file__).parents[2] / "docs" / "pages.md").read_text(encoding="utf-8")
    whole, own_code, by_steps = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("page.jpg", cv2.imread(str(page), cv2.IMREAD_GRAYSCALE))
    names = {}
    exec(whole, names)
    told = capsys.readouterr().out
    Path("page.xml").write_text(pages.write(names["page"], "page"), encoding="utf-8")
    exec(own_code, {})
    assert len(capsys.readouterr().out.splitlines()) == len(names["page"].lines)
    assert "ocr_line" in Path("page.hocr").read_text(encoding="utf-8")
    exec(by_steps, {})
    assert capsys.readouterr().out == told != "\n"
