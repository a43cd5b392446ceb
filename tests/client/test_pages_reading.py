"""A page becomes text: its lines are found, cut out and transcribed in order, with words where they stand."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from htr_client import ImageError, ModelNotFound
from htr_client.pages import Line, LineError, find_page, from_json, read_page, write
from htr_client.pages import read as read_back
from htr_client.results import Character, Timings, Transcription
from htr_client.testing import find_bars

WIDTH, HEIGHT = 900, 700
ROWS = (150, 250, 350)
DARK = 30


def page_of(bars, width=WIDTH, height=HEIGHT):
    grey = np.full((height, width), 240, np.uint8)
    for left, right, bottom in bars:
        grey[bottom - 30 : bottom, left:right] = DARK
    return grey


def transcription(image, text, error=None):
    """What a recogniser might say of a line: characters evenly over its black part."""
    columns = np.flatnonzero((image < 100).any(0))
    edges = np.linspace(columns[0], columns[-1] + 1, len(text) + 1)
    characters = tuple(
        Character(one, 0.9, (float(a), float(b))) for one, a, b in zip(text, edges[:-1], edges[1:], strict=True)
    )
    return Transcription(text, 0.8, characters, (), "htr", 1, None, Timings(0, 0, 0), error)


def test_text_words_and_their_boxes_in_reading_order():
    page = page_of([(100, 500, y) for y in ROWS])
    texts = iter(["one two", "three", "fo ur"])
    versions = iter([7, 8, 7])  # while another one was deployed

    def recognise(cut):
        return [replace(transcription(one, next(texts)), version=next(versions)) for one in cut]

    read = read_page(page, find_bars, recognise, "page.png")
    assert (read.image, read.width, read.height, read.model_version) == ("page.png", WIDTH, HEIGHT, 8)
    assert read.text == "one two\nthree\nfo ur"
    for line, bottom in zip(read.lines, ROWS, strict=True):
        assert line.confidence == 0.8
        assert all(abs(y - bottom) <= 4 for _, y in line.baseline)
    first, second = read.lines[0].words
    assert (first.text, second.text) == ("one", "two")
    assert first.confidence == pytest.approx(0.9**3)
    # Seven characters over 400 pixels.
    expected = [(100, 100 + 3 * 400 / 7), (100 + 4 * 400 / 7, 500)]
    for word, (left, right) in zip((first, second), expected, strict=True):
        assert word.box[0] == pytest.approx(left, abs=6) and word.box[2] == pytest.approx(right, abs=6)
        assert word.box[1] < 125 and 146 < word.box[3] < 165


def test_a_space_that_allows_no_break_costs_no_word_of_its_line():
    text = "le 27\u00a0Mars «\u202foui\u202f» \u6771\u3000\u4eac"
    page = read_page(page_of([(100, 500, 150)]), find_bars, lambda cut: [transcription(one, text) for one in cut])
    assert [word.text for word in page.lines[0].words] == text.split(" ")
    for form in ("alto", "page"):
        assert [word.text for word in read_back(write(page, form).encode()).lines[0].words] == text.split(" ")


def test_boxes_of_words_lie_on_the_page_and_in_their_line():
    def recognise(cut):  # from one end of the image to the other
        for image in cut:
            width = image.shape[1]
            ends = [(0.0, width / 2), (width / 2, width / 2), (width / 2, float(width))]
            characters = tuple(Character(one, 0.9, span) for one, span in zip("a b", ends, strict=True))
            yield Transcription("a b", 0.8, characters, (), "htr", 1, None, Timings(0, 0, 0))

    page = page_of([(0, WIDTH, 32), (300, WIDTH, 350), (0, 500, HEIGHT - 2)])
    lines = read_page(page, find_bars, recognise).lines
    assert len(lines) == 3
    for line in lines:
        left, top, right, bottom = line.box
        assert len(line.words) == 2 and left >= 0 and top >= 0 and right < WIDTH and bottom < HEIGHT
        for word in line.words:
            assert left <= word.box[0] < word.box[2] <= right and top <= word.box[1] < word.box[3] <= bottom


def test_a_large_page_is_shrunk_for_the_finder_and_cut_at_its_own_size():
    page = page_of([(400, 4000, 900), (400, 4000, 1700)], 5000, 3000)
    page[870:900, 400:4000] = page[1670:1700, 400:4000] = DARK
    page = cv2.dilate(255 - page, np.ones((60, 1), np.uint8))
    sizes = []

    def find(data):
        sizes.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).shape)
        return find_bars(data)

    found = find_page(255 - page, find)
    assert sizes == [(1229, 2048)]
    assert [line.box[0] for line in found.lines] == pytest.approx([400, 400], abs=20)
    assert [line.box[2] for line in found.lines] == pytest.approx([4000, 4000], abs=20)


def pale_at_the_left(bars):
    page = page_of(bars)
    for left, _, bottom in bars:
        page[bottom - 30 : bottom, left : left + 60] = 90
    return page


def sure_of_the_upright(images):
    """A recogniser that knows lines whose paler end is the left one."""
    for image in images:
        left, right = (part[part < 128].mean() for part in np.array_split(image, 2, axis=1))
        yield replace(transcription(image, "text"), confidence=0.8 if left > right else 0.2)


def unsure_below(data):
    """A line finder that finds bars that are longer than high, and also sees something faint where they lie low."""
    maps, scale = find_bars(data)
    rows = np.flatnonzero((maps[..., 1] > 0).any(1))
    if len(rows) > 100:
        return np.zeros_like(maps), scale
    if rows.mean() > len(maps) / 2:
        maps[:10, ..., 0] = 80
    return maps, scale


BARS = [(100, 800, 150), (100, 500, 250)]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_page_on_its_side_or_upside_down_is_read_where_it_lies(quarters):
    page = np.ascontiguousarray(np.rot90(pale_at_the_left(BARS), quarters))
    cuts = []

    def recognise(images):
        cuts.append(images)
        return sure_of_the_upright(images)

    read = read_page(page, unsure_below, recognise)
    assert (read.height, read.width) == page.shape
    assert len(read.lines) == 2 and all(line.confidence == 0.8 for line in read.lines)
    assert all(cut.shape[1] > 5 * cut.shape[0] for cut in cuts[-1])
    assert cuts[-1][0].shape[1] > cuts[-1][1].shape[1], "in reading order"
    assert len(cuts) == [1, 3, 4, 3][quarters], "a clear page is not tried in other ways"
    along = np.array([[1, 0], [0, -1], [-1, 0], [0, 1]])[quarters]
    for line in read.lines:
        left, top, right, bottom = line.box
        assert page[top + 8 : bottom - 8, left + 8 : right - 8].mean() < 60
        assert np.subtract(line.baseline[-1], line.baseline[0]) @ along > 300


@pytest.mark.parametrize("recognise", [sure_of_the_upright, None])
def test_a_page_that_only_looks_clearer_upside_down_stays_as_it_is(recognise):
    page = pale_at_the_left([(100, 800, 550), (100, 500, 650)])
    found = find_page(page, unsure_below, recognise=recognise)
    assert len(found.lines) == 2 and all(line.baseline[0][0] < line.baseline[-1][0] for line in found.lines)


def test_a_recogniser_is_as_sure_of_a_long_line_as_of_its_characters():
    def recognise(images):
        asked.extend(images)
        return [replace(transcription(one, "many characters"), confidence=0.1) for one in images]

    asked = []
    find_page(pale_at_the_left([(100, 800, 550), (100, 500, 650)]), unsure_below, recognise=recognise)
    assert len(asked) == 2, "the other way up is not tried"


@pytest.mark.parametrize(("quarters", "along"), [(0, (1, 0)), (1, (0, -1)), (2, (-1, 0)), (3, (0, 1))])
def test_where_a_recogniser_can_read_neither_way_the_line_finder_decides(quarters, along):
    def find(data):
        maps, scale = unsure_below(data)
        maps[:2, ..., 0] = np.maximum(maps[:2, ..., 0], 80 * maps.any())
        return maps, scale

    def recognise(images):  # a little surer of what is upside down
        for one in sure_of_the_upright(images):
            asked.append(one)
            yield replace(one, confidence=0.01 if one.confidence > 0.5 else 0.02)

    asked = []
    page = np.ascontiguousarray(np.rot90(pale_at_the_left(BARS), quarters))
    found = find_page(page, find, recognise=recognise)
    assert len(found.lines) == 2 and len(asked) == 4
    for line in found.lines:
        assert np.subtract(line.baseline[-1], line.baseline[0]) @ along > 300


def test_without_a_recogniser_a_page_on_its_side_lies_as_it_is_clearer():
    page = np.ascontiguousarray(np.rot90(pale_at_the_left(BARS), 1))
    assert all(line.baseline[0][1] > line.baseline[-1][1] for line in find_page(page, unsure_below).lines)


def test_a_server_that_only_finds_lines_is_asked_no_more():
    def missing(images):
        raise ModelNotFound("there is no recogniser")

    page = np.ascontiguousarray(np.rot90(pale_at_the_left(BARS), 2))
    assert len(find_page(page, unsure_below, recognise=missing).lines) == 2


@pytest.mark.parametrize("times", [1, 16], ids=["2062 pixels wide", "33,000 pixels wide, more than OpenCV turns"])
def test_a_skewed_page_is_turned_for_the_finder_and_its_lines_are_placed_where_they_lie(times):
    ends = [((60, 10), (810, 85)), ((1060, 10), (1810, 85))]
    page = np.full((94 * times, 2062 * times), 240, np.uint8)
    for (left, top), (right, bottom) in ends:  # a parallelogram, 10 pixels high
        corners = [(left, top - 10), (right, bottom - 10), (right, bottom), (left, top)]
        cv2.fillPoly(page, [np.array(corners) * times], DARK)
    sizes = []

    def find(data):
        sizes.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).shape)
        return find_bars(data)

    found = find_page(page, find)
    assert len(sizes) == 2 and sizes[1][0] > 3 * sizes[0][0] and max(sizes[1]) <= 2048
    assert (found.height, found.width) == page.shape
    lines = sorted(found.lines, key=lambda line: line.baseline)
    for line, (first, last) in zip(lines, ends, strict=True):
        for place, expected in zip((line.baseline[0], line.baseline[-1]), (first, last), strict=True):
            assert np.array(place) / times == pytest.approx(np.array(expected), abs=6)


def test_the_lines_of_a_negative_are_given_to_the_recogniser_as_dark_on_light():
    """One light line on a page of dark ones stays as it is: the page decides."""
    places = cv2.imencode(".png", page_of([(100, 700, y) for y in ROWS]))[1].tobytes()
    page = page_of([])
    for bottom in ROWS:
        cv2.putText(page, "some words of text", (110, bottom - 4), cv2.FONT_HERSHEY_SIMPLEX, 1.0, DARK, 2)

    def cuts_of(grey):
        cuts = []

        def recognise(images):
            cuts.extend(images)
            return [Transcription("", 0.0, (), (), "htr", 1, None, Timings(0, 0, 0))] * len(images)

        read_page(grey, lambda _: find_bars(places), recognise)
        return cuts

    dark = cuts_of(page)
    assert len(dark) == 3 and all(np.median(cut) == 240 for cut in dark)
    for cut, expected in zip(cuts_of(255 - page), dark, strict=True):
        np.testing.assert_allclose(cut.astype(int), expected, atol=1)  # interpolation rounds
    mixed = page.copy()
    mixed[100:200] = 255 - mixed[100:200]
    assert [np.median(cut) for cut in cuts_of(mixed)] == [15, 240, 240]


def test_an_empty_page_has_no_lines_and_asks_no_recogniser():
    def recognise(cut):
        assert not cut
        return []

    assert read_page(page_of([]), find_bars, recognise).lines == ()


def test_an_image_that_the_server_cannot_decode_has_no_lines():
    assert find_page(page_of([]), lambda _: (np.zeros((1, 1, 3), np.uint8), 0.0)).lines == ()


def test_a_line_that_is_not_transcribed_stays_without_text():
    def recognise(cut):
        refused = transcription(cut[0], "", ImageError("undecodable", "no"))
        return [refused, transcription(cut[1], "yes")]

    read = read_page(page_of([(100, 500, y) for y in ROWS[:2]]), find_bars, recognise)
    assert [line.text for line in read.lines] == ["", "yes"]
    assert [line.error for line in read.lines] == [LineError("undecodable", "no"), None]
    assert (read.model, read.model_version) == ("htr", 1) and from_json(write(read, "json")) == read
    assert isinstance(read.lines[0], Line) and read.lines[0].polygon


def test_an_image_that_is_none_is_refused():
    with pytest.raises(ImageError):
        find_page(b"no image", find_bars)
