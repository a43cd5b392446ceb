"""Both stacks agree. `make test-current` runs this in each, with what the other one has left (exchange.py)."""

import json
import os
from pathlib import Path

import pytest

THIS, OTHER = os.environ.get("HTR_THIS_STACK"), os.environ.get("HTR_OTHER_STACK")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (THIS and OTHER), reason="needs what both stacks leave: `make test-current` runs it"),
]


def record(folder):
    return json.loads((Path(folder) / "record.json").read_text("utf-8"))


def test_they_are_two_stacks():
    this, other = record(THIS)["stack"], record(OTHER)["stack"]
    assert this["tensorflow"] != other["tensorflow"] and this["keras"] != other["keras"]


def test_splits_alphabet_and_class_ids_are_the_same():
    this, other = record(THIS), record(OTHER)
    assert this["splits"] == other["splits"] and set(this["splits"].values()) == {"train", "validation", "eval"}
    assert this["alphabet"] == other["alphabet"]
    assert this["classes"] == other["classes"] and len(this["classes"]) > 500


def test_a_model_of_the_other_stack_reads_the_same_texts_here():
    from tests.end_to_end.exchange import read_images

    assert record(OTHER)["best_epoch"] == 1, "what is read here is what was trained there, and not the base model"
    data = next(folder / "data" for folder in (Path(OTHER), Path(THIS)) if (folder / "data").exists())
    expected = record(OTHER)["texts"]
    (images,) = {path.parent for name in expected for path in data.rglob(name)}
    found = read_images(Path(OTHER) / "workspace", [images / name for name in expected])
    assert len(found) == 200 and len({text for text, _ in found.values()}) > 50
    assert {name: text for name, (text, _) in found.items()} == {name: text for name, (text, _) in expected.items()}
    assert all(confidence == pytest.approx(expected[name][1], abs=1e-3) for name, (_, confidence) in found.items())
