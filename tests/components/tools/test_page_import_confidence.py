"""htr import: lines whose text is perhaps a model's own, which nobody has corrected, are counted."""

import json
from dataclasses import replace

import pytest

from htr_client.pages import Word
from pipeline import cli
from tests.components.tools.test_page_import import add_page, drawn_page

pytestmark = pytest.mark.either_stack


def by_a_model(line, confidence):
    left, top, right, bottom = line.box
    boxes = ((left, top, 160, bottom), (170, top, right, bottom))
    words = tuple(Word(text, box, 0.9) for text, box in zip(line.text.split(), boxes, strict=True))
    return replace(line, confidence=confidence, words=words)


def test_lines_that_a_model_has_transcribed_are_told_until_they_are_corrected(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scans = tmp_path / "scans"
    lines = drawn_page()[1].lines
    add_page(scans, "a-labelled", "a.png")
    for name, kind in (("b-page", "page"), ("c-alto", "alto")):
        add_page(scans, name, f"{name}.png", kind, lines=tuple(by_a_model(line, 0.5) for line in lines))
    add_page(scans, "d-without-words", "d.png", lines=(*lines[:2], replace(lines[2], confidence=0.0)))
    assert cli.main(["import", "scans", "--output", "lines"]) == cli.OK
    assert "Lines with a confidence, as a model writes it: 7 on 3 pages, such as scans/b-page." in (
        capsys.readouterr().out
    )
    page = scans / "b-page.xml"
    page.write_text(page.read_text().replace("<Unicode>line 1<", "<Unicode>lime 1<"))
    assert cli.main(["import", "scans", "--output", "lines", "--json"]) == cli.OK
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["with_confidence"], told["with_confidence_pages"]) == (6, 3)
    for name in ("b-page", "c-alto", "d-without-words"):
        (scans / f"{name}.xml").unlink()
    assert cli.main(["import", "scans", "--output", "lines"]) == cli.OK
    assert "confidence" not in capsys.readouterr().out
