"""The note on the images that a version has learnt from."""

import hashlib

import pytest

from components.common import learnt

pytestmark = pytest.mark.either_stack


def images(*numbers):
    return {hashlib.sha256(str(number).encode()).digest() for number in numbers}


def test_a_note_goes_on_over_warm_starts():
    first = learnt.note(images(*range(10)))
    second = learnt.note(images(*range(8, 20)), first)
    assert len(first) == 80 and len(second) == 160
    assert learnt.note(images(*range(20))) == second
    assert learnt.count(images(*range(15, 25)), second) == 5
    assert learnt.count(images(*range(15, 25)), first) == learnt.count(images(*range(10)), b"") == 0


def test_the_note_of_many_images_is_bounded_and_still_tells_the_share():
    many = images(*range(150_000))
    noted = learnt.note(set(), learnt.note(many))
    assert len(noted) == 8 * learnt.MOST
    half = images(*range(140_000, 160_000))
    assert learnt.count(half, noted) == pytest.approx(10_000, abs=500)
    assert learnt.count(images(*range(200_000, 220_000)), noted) == 0


def test_versions_without_a_note_have_none(tmp_path):
    assert learnt.note_of(None) == learnt.note_of(str(tmp_path / "17")) == b""
    (tmp_path / "17.learnt_images").write_bytes(b"12345678")
    assert learnt.note_of(str(tmp_path / "17")) == b"12345678"
