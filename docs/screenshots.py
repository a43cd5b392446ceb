"""Takes the documents' screenshots of the newest run of a workspace, and of a check of its data with planted mistakes.

make demo && .venv/bin/python -m docs.screenshots --data demo/data --workspace demo/workspace --image IMAGE
"""

import argparse
import base64
import csv
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from components.tools.base_data.rendered_text.dataset import write_dataset
from tests.conftest import until
from tests.serving.browser import Browser

DOCS = Path(__file__).parent
HTR = [sys.executable, "-m", "pipeline.cli"]
TOP = 1100, 1250
LETTER = [
    "Dear friend, the letter came on Monday", "with all the good news that you had promised us.",
    "We read it at the table and then once more", "in the garden, until the light was gone.",
    "Tell your mother that the trees are in flower,", "and that there is a bed for her in April.",
]  # fmt: skip


def main() -> None:
    """Writes them beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True, help="to transcribe on the page")
    arguments = parser.parse_args()
    workspace = arguments.workspace.resolve()
    with tempfile.TemporaryDirectory() as folder:
        names = with_mistakes(arguments.data, Path(folder) / "names")
        check = Path(folder) / "check.html"
        subprocess.run([*HTR, "check", "--data", str(names), "--html", str(check)], check=True)
        report = subprocess.check_output([*HTR, "report", "--workspace", str(workspace)], text=True).strip()
        browser = Browser(Path(folder))
        try:
            for name, path, width, height, start in (
                ("report", report, *TOP, "body"),
                ("report-errors", report, 1100, 1120, "h3=Typical errors"),
                ("report-slices", report, 1100, 2040, "h3=Most frequent confusions"),
                ("report-phone", report, 390, 1500, "body"),
                ("check", str(check), 1100, 1500, "body"),
            ):
                browser.open(Path(path).as_uri(), width, height)
                for prefix in (f"{workspace.parent}/", f"{folder}/"):
                    browser.evaluate(f"document.body.innerHTML = document.body.innerHTML.replaceAll('{prefix}', '')")
                take(browser, name, width, height, start)
            with_word(browser, workspace, arguments.image)
            with_page(browser, letter(Path(folder) / "letter"))
        finally:
            browser.close()


def with_mistakes(data: Path, copy: Path) -> Path:
    """A copy of the data with three images that another writer has too, one of them with another label."""
    shutil.copytree(data, copy)
    (table,) = copy.glob("*.csv")
    with open(table, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    for (name, text, _), label in zip(rows[11:14], ("Amsterdam", None, None), strict=True):
        shutil.copy(copy / "images" / name, copy / "images" / f"copy_{name}")
        rows.append([f"copy_{name}", label or text, "writer-04"])
    with open(table, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return copy


def letter(folder: Path) -> Path:
    """A page in one handwriting, rendered from open fonts, a little askew."""
    write_dataset(folder, LETTER, seed=11, writers=1)
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        names = [row["filename"] for row in csv.DictReader(file)]
    page = np.full((120 + 62 * len(LETTER), 1100), 238, np.uint8)
    for number, name in enumerate(names):
        line = cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE)
        line = cv2.resize(line, None, fx=48 / len(line), fy=48 / len(line), interpolation=cv2.INTER_AREA)
        line = np.clip(line * (238 / np.median(line)), 0, 255).astype(np.uint8)[:, :940]
        top = 60 + 62 * number
        place = page[top : top + 48, 80 : 80 + line.shape[1]]
        np.minimum(place, line, out=place)
    turn = cv2.getRotationMatrix2D((550, len(page) / 2), 1.2, 1.0)
    path = folder / "letter.png"
    cv2.imwrite(str(path), cv2.warpAffine(page, turn, page.shape[::-1], borderValue=238))
    return path


def with_page(browser: Browser, page: Path) -> None:
    """A page on which the base models have found and transcribed the lines."""
    command = [*HTR, "serve", "--workspace", str(page.parent / "none"), "--port=0", "--ui", "--ui_port=-1", "--pages"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"ui=(\S+)", server.stdout.readline())[1]
            browser.open(f"{address}/", 1100, 1400)
            until(lambda: browser.evaluate("at('model').textContent"))
            browser.choose_file("#file", page.resolve())
            until(lambda: browser.evaluate("!at('page').hidden && at('scan').complete"))
            bottom = "at('line').getBoundingClientRect().bottom"
            height = browser.evaluate(f"{bottom} - at('sheet').getBoundingClientRect().top + 32")
            take(browser, "page", 1100, height, "#sheet")
        finally:
            server.terminate()


def with_word(browser: Browser, workspace: Path, image: Path) -> None:
    """The page of `htr serve --ui`, with something drawn and an image transcribed."""
    command = [*HTR, "serve", "--workspace", str(workspace), "--port=0", "--ui", "--ui_port=-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"ui=(\S+)", server.stdout.readline())[1]
            browser.open(f"{address}/", 800, 900)
            until(lambda: browser.evaluate("at('model').textContent"))
            left, top = browser.evaluate("(() => { const b = pad.getBoundingClientRect(); return [b.left, b.top] })()")
            for stroke in ([(180, 55), (180, 175)], [(240, 55), (240, 175)], [(180, 115), (240, 115)],
                           [(290, 100), (290, 175)], [(290, 70), (291, 71)]):  # fmt: skip
                browser.drag([(left + x, top + y) for x, y in stroke])
            browser.choose_file("#file", image.resolve())
            until(lambda: browser.evaluate("!at('result').hidden && at('image').complete"))
            take(browser, "ui", 800, browser.evaluate("document.documentElement.scrollHeight"))
        finally:
            server.terminate()


def take(browser: Browser, name: str, width: int, height: int, start: str = "body") -> None:
    """Saves a part of the page in 256 colours, from an element on: a selector, or tag=text."""
    selector, _, text = start.partition("=")
    top = browser.evaluate(
        f"[...document.querySelectorAll('{selector}')].find(e => e.textContent.includes('{text}'))"
        ".getBoundingClientRect().top + scrollY"
    )
    clip = {"x": 0, "y": 0 if start == "body" else top - 16, "width": width, "height": height, "scale": 1}
    shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(DOCS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
