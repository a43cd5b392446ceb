"""Lines come out of a page straight and upright, whatever their course; what cannot be cut has a reason."""

import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htr_client.pages import CutError, Line, cut_line, line_pitch

TEXT = "the quick brown fox jumps"
TOP, BOTTOM, LEFT, RIGHT = 100, 150, 60, 560  # of the text's box on a straight page
BASE = 138
MARGIN = 5  # at both ends, a tenth of the height
ABOVE = 1  # and below: a fiftieth


@pytest.fixture(scope="module")
def page():
    """A straight line of text on ruled paper."""
    grey = np.full((300, 640), 230, np.uint8)
    grey[::40] = 200
    cv2.putText(grey, TEXT, (LEFT + 4, BASE), cv2.FONT_HERSHEY_SIMPLEX, 1.1, 20, 2, cv2.LINE_AA)
    return grey


def box(left=LEFT, top=TOP, right=RIGHT, bottom=BOTTOM):
    return ((left, top), (right, top), (right, bottom), (left, bottom))


STRAIGHT = Line(baseline=((LEFT, BASE), (RIGHT, BASE)), polygon=box())


def crop(page):
    return page[TOP - ABOVE : BOTTOM + ABOVE + 1, LEFT - MARGIN : RIGHT + MARGIN + 1]


def likeness(a, b):
    """Correlation of two images, of which the second one is made as large as the first."""
    return np.corrcoef(a.ravel(), cv2.resize(b, a.shape[::-1]).ravel())[0, 1]


def test_a_straight_line_is_the_box_with_its_background_pixel_for_pixel(page):
    np.testing.assert_array_equal(cut_line(page, STRAIGHT), crop(page))


def test_a_bent_line_comes_out_straight():
    """A rule is bent; its annotation follows the curve with a few points, as people draw it."""

    def bend(x):
        return 40 * np.sin(x / 110)

    paper = np.full((300, 640), 230, np.uint8)
    x = np.arange(640)
    rule = np.stack([x, BASE + 5 + bend(x)], axis=1).round().astype(np.int32)
    cv2.polylines(paper, [rule], False, 0, 2)
    assert np.ptp(paper.argmin(0)) > 70

    def along(y):
        return tuple((int(x), round(y + bend(x))) for x in np.linspace(LEFT, RIGHT, 14).round())

    cut = cut_line(paper, Line(baseline=along(BASE), polygon=along(TOP) + along(BOTTOM)[::-1]))
    assert (cut.min(0) < 60).all()
    assert np.ptp(cut.argmin(0)) <= 6
    assert cut.shape[0] < 80


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_text_in_any_direction_comes_out_upright(page, turns):
    def turned(points):
        for _ in range(turns):  # as np.rot90 turns, counter-clockwise
            width = (640, 300)[_ % 2]
            points = tuple((y, width - 1 - x) for x, y in points)
        return points

    cut = cut_line(np.rot90(page, turns), Line(baseline=turned(STRAIGHT.baseline), polygon=turned(STRAIGHT.polygon)))
    assert abs(cut.shape[0] - crop(page).shape[0]) <= 2
    assert likeness(crop(page), cut) > 0.95


def test_a_slanted_line_without_baseline_follows_the_middle_of_its_polygon(page):
    turn = cv2.getRotationMatrix2D((320, 150), 8, 1)
    slanted = cv2.warpAffine(page, turn, (640, 300), borderMode=cv2.BORDER_REPLICATE)
    points = np.rint(np.array(box()) @ turn[:, :2].T + turn[:, 2]).astype(int)
    cut = cut_line(slanted, Line(polygon=tuple(map(tuple, points.tolist()))))
    assert likeness(crop(page), cut) > 0.75


def test_without_polygon_the_distance_of_lines_gives_the_height(page):
    lines = [Line(baseline=((LEFT, y), (RIGHT, y))) for y in (38, 88, BASE, 188)]
    assert line_pitch(lines) == 50
    cut = cut_line(page, lines[2], line_pitch(lines))
    np.testing.assert_array_equal(cut, page[BASE - 36 : BASE + 15, LEFT : RIGHT + 1])


@pytest.mark.parametrize(("angle", "least"), [(0, 0), (90, 0), (-90, 0), (180, 0), (12, 0.2)])
def test_the_distance_of_lines_is_measured_across_them(angle, least):
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    ends = [np.array([(100 + 7 * i, 100 + 50 * i), (400, 100 + 50 * i)]) for i in range(5)]
    turned = [np.rint(line @ [[cosine, sine], [-sine, cosine]] + 900).astype(int) for line in ends]
    lines = [Line(baseline=tuple(map(tuple, line.tolist()))) for line in turned]
    assert line_pitch(lines) == pytest.approx(50, abs=least or 1e-6)


def test_pitch_does_not_mix_columns_or_parts_of_a_line():
    columns = [Line(baseline=((x, y + x // 60), (x + 200, y + x // 60))) for x in (0, 300) for y in (100, 160, 220)]
    assert line_pitch(columns) == 60
    assert line_pitch([]) is None and line_pitch(columns[:1]) is None


def test_the_pitch_of_very_many_lines_is_found_soon():
    lines = [Line(baseline=((10 * (i % 50), 20 * i), (10 * (i % 50) + 400, 20 * i))) for i in range(8_000)]
    started = time.process_time()
    assert line_pitch(lines) == 20
    assert time.process_time() - started < 3  # comparing each with each in Python took 8


def test_a_spike_of_the_polygon_does_not_make_the_line_small(page):
    spike = Line(baseline=STRAIGHT.baseline, polygon=(*box()[:1], (300, TOP), (303, 0), (306, TOP), *box()[1:]))
    assert cut_line(page, spike).shape[0] <= 2.5 * crop(page).shape[0]
    assert cut_line(page, spike).shape[0] > crop(page).shape[0]


def test_a_line_at_the_edge_of_the_page_is_filled_up(page):
    cut = cut_line(page, Line(baseline=((-9, 290), (700, 290)), polygon=box(-20, 270, 700, 310)))
    assert cut.shape[1] >= 640
    np.testing.assert_array_equal(cut[-1], cut[-2])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (Line("text"), "no_geometry"),
        (Line(baseline=((5, 5),)), "no_geometry"),
        (Line(baseline=((5, 5), (5, 5))), "no_geometry"),
        (Line(baseline=((5, 5), (90, 5))), "no_geometry"),  # nothing tells its height
        (Line(polygon=((5, 5), (90, 90))), "no_geometry"),
        (Line(polygon=((5, 5), (90, 5), (40, 5))), "no_geometry"),
        (Line(polygon=box(700, 10, 900, 50)), "outside_image"),
        (Line(baseline=((5, -50), (90, -50)), polygon=box()), "outside_image"),
        (Line(polygon=tuple((640 * (n % 2), n % 300) for n in range(500))), "bad_geometry"),
        (Line(baseline=((90, BASE), (100, BASE), (90, BASE)), polygon=box()), "bad_geometry"),  # doubles back
        (
            Line(
                baseline=((0, 136), (10, 155), (18, 83), (18, 83), (10, 155), (0, 136)),
                polygon=((143, 90), (144, 0), (0, 53)),
            ),
            "bad_geometry",
        ),
    ],
)
def test_what_cannot_be_cut_has_a_reason(page, line, reason):
    with pytest.raises(CutError) as caught:
        cut_line(page, line)
    assert caught.value.reason == reason


POINTS = st.lists(st.tuples(st.integers(-50, 250), st.integers(-50, 150)), max_size=8).map(tuple)


@given(POINTS, POINTS, st.none() | st.floats(0.1, 200))
def test_any_points_give_an_image_or_a_reason(baseline, polygon, pitch):
    grey = np.full((100, 200), 200, np.uint8)
    try:
        cut = cut_line(grey, Line(baseline=baseline, polygon=polygon), pitch)
    except CutError:
        return
    assert cut.dtype == np.uint8 and cut.ndim == 2 and min(cut.shape) > 0
    assert (cut == 200).all()


NEAR = st.lists(st.tuples(st.integers(80, 120), st.integers(40, 60)), min_size=1, max_size=4).map(tuple)


@given(NEAR, st.integers(1, 60), st.integers(1, 40))
def test_a_baseline_that_doubles_back_gives_an_image_or_a_reason(there, half_width, half_height):
    """As a slip of the pen leaves it: within the height of its line it is where it began, and has no direction."""
    grey = np.full((100, 200), 200, np.uint8)
    polygon = box(100 - half_width, 50 - half_height, 100 + half_width, 50 + half_height)
    for baseline in (there + there[::-1], there + there[:1]):
        try:
            cut = cut_line(grey, Line(baseline=baseline, polygon=polygon))
        except CutError as error:
            assert error.reason == "bad_geometry"
        else:
            assert min(cut.shape) > 0 and (cut == 200).all()
