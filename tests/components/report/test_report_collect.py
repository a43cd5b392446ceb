"""What the report collects from the data and from a model."""

import pytest

from components.example_gen.measures import NUMBERS
from components.recogniser.located import located
from components.report import collect
from htr_client import HtrClient
from htr_client.image_files import load
from htr_client.testing import FakeServer, png


def test_the_digest_of_the_data_tells_splits_apart_and_no_orders(monkeypatch):
    row = {"text": "a", "writer": "w", "image": b"1", **dict.fromkeys(NUMBERS, 1.0)}
    splits = {"train": [{**row, "id": "a.png"}, {**row, "id": "b.png"}], "validation": [], "eval": []}
    monkeypatch.setattr(collect, "records", lambda _, name: splits[name])
    _, before = collect.read_splits("")
    splits["train"].reverse()
    assert collect.read_splits("")[1] == before
    splits["eval"].append(splits["train"].pop())
    assert collect.read_splits("")[1] != before


def test_the_report_places_characters_where_the_client_does():
    image, width = png("hello"), 40
    frames = [(2 * i, 2 * i + 1) for i in range(5)]  # in which the fake server's model sees each
    with FakeServer() as server, HtrClient(server.address) as client:
        expected = client.transcribe(image).characters
    found = located([(text, 0.9, run) for text, run in zip("hello", frames, strict=True)], load(image), 2 * len(frames))
    assert [text for text, _, _ in found] == [character.text for character in expected]
    for (_, _, span), character in zip(found, expected, strict=True):
        assert span == pytest.approx([edge / width for edge in character.span])
