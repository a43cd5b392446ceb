"""What the report collects from a model."""

import pytest

from components.recogniser.located import located
from htr_client import HtrClient
from htr_client.image_files import load
from htr_client.testing import FakeServer, png


def test_the_report_places_characters_where_the_client_does():
    image, width = png("hello"), 40
    frames = [(2 * i, 2 * i + 1) for i in range(5)]  # in which the fake server's model sees each
    with FakeServer() as server, HtrClient(server.address) as client:
        expected = client.transcribe(image).characters
    found = located([(text, 0.9, run) for text, run in zip("hello", frames, strict=True)], load(image), 2 * len(frames))
    assert [text for text, _, _ in found] == [character.text for character in expected]
    for (_, _, span), character in zip(found, expected, strict=True):
        assert span == pytest.approx([edge / width for edge in character.span])
