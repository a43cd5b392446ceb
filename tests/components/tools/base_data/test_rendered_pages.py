"""Rendered pages: what is said of their lines is where their ink is."""

import itertools

import numpy as np
import pytest

from components.line_finder.geometry import points
from components.tools.base_data.rendered_pages import pages as rendered
from components.tools.base_data.rendered_pages.pages import LONGEST, render_page

TEXTS = ["Anna Berger, Äpfel und 14 Birnen", "am 3. Mai 1871 gesehen;", "Größe: über 100 m (Paris) Ψ"]


def render(seed):
    return render_page(f"page-{seed}", itertools.cycle(TEXTS), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def pages():
    return [render(seed) for seed in range(8)]


def test_pages_have_the_size_of_scans_and_lines_within(pages):
    for page in pages:
        height, width = page.grey.shape
        assert page.grey.dtype == np.uint8 and max(height, width) == LONGEST and page.lines
        for line in page.lines:
            assert len(line.baseline) >= 2 and line.text
            corners = points(line.polygon)
            assert (corners >= 0).all() and (corners < [width, height]).all()
            assert corners[:, 1].min() < points(line.baseline)[:, 1].min()


def test_a_seed_gives_one_page_and_another_seed_another(pages):
    again = render(3)
    assert np.array_equal(again.grey, pages[3].grey) and again.lines == pages[3].lines
    assert not np.array_equal(pages[2].grey[:700, :700], pages[3].grey[:700, :700])


def test_letters_stand_on_their_baselines(pages):
    """Ink is dense from a baseline to the x-height above it, and rare as far below it."""
    on, below = [], []
    for page in pages:
        paper = float(np.percentile(page.grey, 75))
        for line in page.lines:
            course = points(line.baseline)
            height = course[0, 1] - line.polygon[0][1]
            x = np.linspace(course[0, 0], course[-1, 0], 200)
            y = np.interp(x, *course.T)
            for offset, kept in ((-0.3, on), (0.35, below)):
                rows = (y[:, None] + np.linspace(0.1, 1, 9) * offset * height).round().astype(int)
                grey = page.grey[rows.clip(0, page.grey.shape[0] - 1), x.round().astype(int)[:, None]]
                kept.append(float(grey.mean()) - paper)
    assert len(on) > 80 and np.mean(np.array(on) < np.array(below) - 5) > 0.9


def test_what_a_typeface_cannot_write_is_left_out(pages):
    assert not any("Ψ" in line.text for page in pages for line in page.lines)
    assert any("Größe:" in line.text for page in pages for line in page.lines)


def test_print_is_no_line(monkeypatch):
    printed = []
    draw = rendered._Print.draw
    monkeypatch.setattr(rendered._Print, "draw", lambda *given: printed.append(given[1]) or draw(*given))
    numbered = (f"n{number}" for number in itertools.count())
    handwritten = [
        line.text for seed in range(4, 9) for line in render_page("", numbered, np.random.default_rng(seed)).lines
    ]
    assert printed and handwritten and not set(printed) & set(handwritten)
