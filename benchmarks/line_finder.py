"""How well lines are found on pages: the line finder beside a classical method, and what it takes.

    python -m benchmarks.line_finder --data SETS [--model VERSION] [--unseen NAME] [--limit N] [--recogniser PRESET]

Without a model the base line finder is measured. The pages are those that its recipe holds back, and a set that no
training has seen. A found line counts when its baseline covers 70 % of a true one within half an x-height, and the
other way round. With a recogniser, a base model or a version directory, the second table has the CER of whole pages:
what it reads in the true lines, in the found lines that lie on true ones, and in all found lines, where unlabelled text
such as print counts as errors; the last row is that of all held-back pages.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import cv2
import numpy as np

from components.base_model import packing
from components.line_finder.data import LabelledPage, load_pages
from components.line_finder.measuring import TextErrors, as_served, compare, texts_of
from components.line_finder.metric import FindLines, LineScore, score_pages
from components.line_finder.settings import LineFinderConfig
from htr_client import HtrClient
from htr_client.pages import Line
from htr_client.pages.reading_order import with_columns
from pipeline.recipes.base_line_finder import EVALUATION, load_splits
from serving.local import LocalClient
from serving.local_lines import LocalLineFinder

_ANGLES = np.arange(-10, 10.5, 0.5)


def projection(grey: np.ndarray) -> tuple[Line, ...]:
    """The classical method: binarises, deskews, and cuts the page at the valleys of its horizontal projection profile.

    Within the strip of a line, runs of ink are joined over gaps of three times its height; a baseline is the row below
    which the profile falls most. (Likforman-Sulem et al. 2007, "Text line segmentation of historical documents".)
    """
    ink = _binarised(grey)
    angle = max(_ANGLES, key=lambda degrees: _sharpness(ink, degrees))
    height, width = ink.shape
    middle = (width / 2, height / 2)
    turn = cv2.getRotationMatrix2D(middle, float(angle), 1.0)
    upright = cv2.warpAffine(ink, turn, (width, height), flags=cv2.INTER_NEAREST)
    profile = cv2.GaussianBlur(
        (upright > 0).sum(1).astype(np.float32)[:, None], (1, 0), 0, sigmaY=_spacing(upright) / 6
    )
    profile = profile[:, 0]
    peaks = np.flatnonzero((profile[1:-1] >= profile[:-2]) & (profile[1:-1] > profile[2:])) + 1
    peaks = peaks[profile[peaks] > 0.1 * np.percentile(profile[peaks], 90)] if len(peaks) else peaks
    back = cv2.invertAffineTransform(turn)
    lines = []
    for i, peak in enumerate(peaks):
        top = peaks[i - 1] + int(profile[peaks[i - 1] : peak].argmin()) if i else 0
        bottom = peak + int(profile[peak : peaks[i + 1]].argmin()) if i + 1 < len(peaks) else height - 1
        # Before the first line and after the last one there is no valley: as far as the other side reaches.
        reach = min(peak - top, bottom - peak) if 0 < i < len(peaks) - 1 else max(4, min(peak - top, bottom - peak))
        top, bottom = max(top, peak - 2 * reach), min(bottom, peak + 2 * reach)
        if bottom - top < 4:
            continue
        baseline = peak + int(np.diff(profile[peak : bottom + 1]).argmin())
        for left, right in _runs(upright[top:bottom], 3 * (bottom - top)):
            course = _turned([(left, baseline), (right, baseline)], back)
            outline = _turned([(left, top), (right, top), (right, bottom), (left, bottom)], back)
            lines.append(Line(baseline=course, polygon=outline))
    return with_columns(lines)


def _binarised(grey: np.ndarray) -> np.ndarray:
    """Ink 255, without ruled lines, specks, and what is as large as a border."""
    ink = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 41, 15)
    ruled = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((1, max(grey.shape[1] // 16, 3)), np.uint8))
    ink = cv2.subtract(ink, cv2.dilate(ruled, np.ones((3, 1), np.uint8)))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink)
    height, width = grey.shape
    kept = (
        (stats[:, cv2.CC_STAT_AREA] > 12)
        & (stats[:, cv2.CC_STAT_HEIGHT] < height / 6)
        & (stats[:, cv2.CC_STAT_WIDTH] < width / 2)
    )
    kept[0] = False
    return (255 * kept[labels]).astype(np.uint8)


def _sharpness(ink: np.ndarray, degrees: float) -> float:
    """How much the profile rises and falls when the page is turned."""
    small = cv2.resize(ink, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    height, width = small.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(degrees), 1.0)
    return float(np.square(np.diff(cv2.warpAffine(small, turn, (width, height)).astype(np.float32).sum(1))).sum())


def _spacing(ink: np.ndarray) -> float:
    """Distance between lines: the first high peak of the profile's autocorrelation."""
    profile = (ink > 0).sum(1).astype(np.float64)
    profile -= profile.mean()
    correlation = np.correlate(profile, profile, "full")[len(profile) :]
    rising = np.flatnonzero((correlation[1:-1] > correlation[:-2]) & (correlation[1:-1] >= correlation[2:])) + 1
    rising = rising[(rising >= 12) & (rising <= 200)]
    # The first one that is nearly the greatest: multiples of the distance have peaks, too.
    high = rising[correlation[rising] > 0.5 * correlation[rising].max()] if len(rising) else rising
    return float(high[0] + 1) if len(high) else 40.0


def _runs(strip: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """First and last column of the runs of ink in a strip, joined over gaps, without short ones."""
    columns = np.flatnonzero((strip > 0).any(0))
    if not len(columns):
        return []
    breaks = np.flatnonzero(np.diff(columns) > gap)
    starts, ends = columns[np.r_[0, breaks + 1]], columns[np.r_[breaks, len(columns) - 1]]
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True) if b - a >= len(strip) / 2]


def _turned(corners: list[tuple[int, int]], matrix: np.ndarray) -> tuple[tuple[int, int], ...]:
    turned = np.rint(np.array(corners, np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(int)
    return tuple((int(x), int(y)) for x, y in turned)


def timed(pages: list[LabelledPage], find: FindLines) -> tuple[LineScore, float]:
    """Score over pages, and seconds to find the lines of a page."""
    begin = time.perf_counter()
    found = [find(page.grey) for page in pages]
    seconds = (time.perf_counter() - begin) / max(len(pages), 1)
    return score_pages((page.lines, lines) for page, lines in zip(pages, found, strict=True)), seconds


def transcribed(pages: list[LabelledPage], find: FindLines, client: HtrClient) -> TextErrors:
    """Errors of the recogniser in the true lines and in the found ones."""
    errors = TextErrors()
    for page in pages:
        found = find(page.grey)
        read, texts = (texts_of(page, lines, client.transcribe_many) for lines in (page.lines, found))
        errors.merge(compare(page, read, found, texts))
    return errors


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the folder `pages` with the sets")
    parser.add_argument("--model", help="version directory; the base line finder if not given")
    parser.add_argument("--unseen", default="copiste", help="set below `pages` that was never trained on")
    parser.add_argument("--limit", type=int, default=10_000, help="most pages of a set")
    parser.add_argument("--recogniser", help="preset of a base model, or version directory")
    given = parser.parse_args()
    longest = LineFinderConfig().longest
    finder = LocalLineFinder(given.model or packing.unpack(packing.PAGES))
    find = as_served(finder)
    sets = load_splits(given.data, longest)[EVALUATION]
    unseen = f"{given.unseen} (unseen source)"
    sets[unseen] = list(load_pages([str(given.data / "pages" / given.unseen)], longest))
    find(np.full((longest, longest), 255, np.uint8))  # the first call builds the graph
    print(f"{'set':28} {'pages':>5} {'lines':>5}  {'method':10} {'F1':>6} {'prec.':>6} {'recall':>6} {'s/page':>7}")
    for name, pages in sets.items():
        for method, way in (("network", find), ("projection", projection)):
            score, seconds = timed(pages[: given.limit], way)
            print(
                f"{name:28} {len(pages[: given.limit]):5} {score.true:5}  {method:10} {score.f1:6.3f} "
                f"{score.precision:6.3f} {score.recall:6.3f} {seconds:7.2f}",
                flush=True,
            )
    large = cv2.resize(next(iter(sets.values()))[0].grey, (1200, 1600))
    begin = time.perf_counter()
    find(large)
    print(f"A page of 1,200 x 1,600 pixels: {time.perf_counter() - begin:.2f} s; ", end="")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    if given.recogniser:
        version = packing.unpack(given.recogniser) if given.recogniser in packing.presets() else given.recogniser
        print(
            f"\n{'set':28} {'pages':>5}  {'CER true lines':>15} {'found on them':>14} {'whole pages':>12} {'ratio':>6}"
        )
        together, count = TextErrors(), 0
        with LocalClient(version) as client:
            for name, pages in sets.items():
                chosen = pages[: given.limit]
                read = transcribed(chosen, find, client)
                print(_row(name, len(chosen), read), flush=True)
                if name != unseen:
                    together, count = together.merge(read), count + len(chosen)
        print(_row("held back, together", count, together))


def _row(name: str, pages: int, read: TextErrors) -> str:
    """A row of the second table; its ratio is that of whole pages to the true lines."""
    ratio = read.pages.rate / read.true.rate
    return f"{name:28} {pages:5}  {read.true.rate:15.4f} {read.found.rate:14.4f} {read.pages.rate:12.4f} {ratio:6.2f}"


if __name__ == "__main__":
    main()
