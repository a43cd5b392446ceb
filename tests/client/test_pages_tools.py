"""Tools that we did not write read our files, and we read theirs. `make page-tools` installs them."""

import json
import subprocess
from pathlib import Path

import pytest

from htr_client import pages
from htr_client.pages import Line, Page, Word

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv-page-tools"

pytestmark = pytest.mark.skipif(
    not (TOOLS / "bin" / "python").exists(), reason="the tools of others are not installed (make page-tools)"
)


def outline(y):
    return ((10, y), (590, y + 2), (590, y + 40), (10, y + 38))


PAGE = Page(
    image='a "name"; & more.png',
    width=600,
    height=800,
    document="will 7",
    lines=(
        Line(
            "Ceci est", ((10, 130), (300, 133), (590, 131)), outline(100), 0.75,
            (Word("Ceci", (12, 101, 200, 138), 0.5), Word("est", (220, 101, 300, 138), 0.25)), "l1", "left",
        ),
        Line("mon <testament> & plus", ((10, 180), (590, 181)), outline(150), 0.5, (), "l2", "left"),
        Line("", ((10, 230), (590, 231)), outline(200), None, (), "l3", "right"),
        Line("fin", ((10, 280), (590, 281)), outline(250), 1.0, (), "l4", "right"),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    for name, ending in (("page", "page.xml"), ("alto", "alto.xml"), ("hocr", "hocr")):
        (folder / f"out.{ending}").write_text(pages.write(PAGE, name), encoding="utf-8")
    script = [TOOLS / "bin" / "python", ROOT / "tests" / "client" / "page_tools.py", TOOLS / "schemas", folder]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["page", "alto"])
def test_our_files_follow_the_official_schema(theirs, name):
    assert theirs[1]["problems"][name] == ""


def test_pagexml_tools_reads_our_page_xml(theirs):
    assert theirs[1]["page"] == {
        line.id: {
            "text": line.text,
            "polygon": [list(point) for point in line.polygon],
            "baseline": [list(point) for point in line.baseline],
            "words": [word.text for word in line.words],
        }
        for line in PAGE.lines
    }


def test_we_read_the_page_xml_of_pagexml_tools(theirs):
    page = pages.read((theirs[0] / "theirs.page.xml").read_bytes())
    assert (page.width, page.height) == (600, 800)
    found = {line.id: line for line in page.lines}
    for line in PAGE.lines:
        other = found[line.id]
        assert (other.text, other.polygon, other.baseline) == (line.text, line.polygon, line.baseline)


def test_alto_tools_reads_our_alto(theirs):
    lines = [line.strip() for line in theirs[1]["alto"].splitlines() if line.strip()]
    assert lines == [line.text for line in PAGE.lines if line.text]


def test_archive_hocr_tools_reads_our_hocr(theirs):
    assert theirs[1]["hocr"] == [
        [["Ceci", [12, 101, 200, 138], 50], ["est", [220, 101, 300, 138], 25]],
        [["mon <testament> & plus", [10, 150, 590, 190], 50]],
        [],
        [["fin", [10, 250, 590, 290], 100]],
    ]
