"""Pages of reports in a real browser: laid out well on a phone, on a desk and on paper."""

import dataclasses
import html as markup
import json
import re
import shutil
import subprocess

import pytest

from components.evaluator.verdict import Baseline
from components.report.html import page as write_page
from pipeline import cli
from pipeline.config import Config
from tests.components.report.report_material import FIGURES, STEPS, in_words, material, table, words
from tests.conftest import write_dataset

pytestmark = pytest.mark.either_stack

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    return found


def laid_out(page, width, folder):
    """What a browser makes of the page in a column of some pixels: sizes and what went wrong, measured by a script."""
    script = """
      const frame = document.querySelector('iframe');
      frame.onload = () => {
        const page = frame.contentDocument, root = page.documentElement;
        const broken = [...page.images].filter(i => !i.complete || !i.naturalWidth).length;
        const inside = e => e.closest('.wide, .scroll, pre');  // these scroll by themselves
        const wide = [...page.querySelectorAll('body *')]
          .filter(e => e.getBoundingClientRect().right > root.clientWidth + 1 && (!inside(e) || inside(e) === e))
          .map(e => e.outerHTML.slice(0, 80));
        const plots = [...page.querySelectorAll('svg.plot, svg.reading')].map(e => e.getBoundingClientRect())
          .filter(box => box.width < 100 || box.height < 40).length;
        const cut = [...page.querySelectorAll('#slices .wide')].filter(e => e.scrollWidth > e.clientWidth + 1).length;
        const scales = [...page.querySelectorAll('svg.plot')]
          .map(e => e.getBoundingClientRect().width / e.viewBox.baseVal.width);
        const found = JSON.stringify({width: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight,
          broken, wide, plots, cut, scales});
        document.body.innerHTML = '<pre id=out></pre>';
        document.getElementById('out').textContent = found;
      };"""
    outer = folder / "outer.html"
    outer.write_text(
        f'<body><iframe width={width} height=900 srcdoc="{markup.escape(page)}"></iframe><script>{script}</script>',
        encoding="utf-8",
    )
    done = subprocess.run(
        [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=10000", "--window-size=1400,1000", "--dump-dom", outer.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(markup.unescape(found[1]))


@pytest.mark.parametrize("width", [360, 800, 1100, 1300])
def test_report_fits_a_phone_and_a_desk(page, width, tmp_path):
    measured = laid_out(page, width, tmp_path)
    assert measured["wide"] == []
    assert measured["scroll"] <= measured["width"] + 1, "the page scrolls sideways"
    assert (measured["broken"], measured["plots"]) == (0, 0)
    assert measured["height"] > 3000
    assert measured["cut"] == 0, "a figure of a slice is out of sight, and nothing says so"
    # Letters of 7 to 9 points, whatever the size of a chart.
    assert len(measured["scales"]) == len(FIGURES) and 1 <= min(measured["scales"]) <= max(measured["scales"]) < 1.7


def test_a_long_path_in_a_report_is_broken_on_a_phone(tmp_path):
    made = material(table(words(200), rate=0.05, baseline_rate=0.06), Config(gate={"max_cer": 0.3}))
    base = Baseline("warm_start", None, "/" + "a_long_name_of_a_folder/" * 6)
    made = dataclasses.replace(made, verdict=dataclasses.replace(made.verdict, compared_with=base))
    text = write_page(json.loads(json.dumps(in_words(made))), steps=STEPS)
    assert base.path in text
    measured = laid_out(text, 360, tmp_path)
    assert measured["wide"] == [] and measured["scroll"] <= measured["width"] + 1


def test_check_fits_a_phone(tmp_path):
    browser()
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": f"word{i}"} for i in range(60)])
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
    assert cli.main(["check", "--data", str(folder), "--html", str(tmp_path / "check.html")]) == 0
    measured = laid_out((tmp_path / "check.html").read_text(encoding="utf-8"), 360, tmp_path)
    assert measured["wide"] == [] and measured["scroll"] <= measured["width"] + 1 and measured["broken"] == 0


def test_report_prints_as_pdf(page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    subprocess.run(
        [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         f"--print-to-pdf={tmp_path / 'report.pdf'}", path.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes()))
    assert 4 <= pages <= 40
