"""`make base-line-finder` at a small size: from pages with XML to the files that are shipped."""

import json
from dataclasses import replace

import numpy as np
import pytest

from components.base_model import packing
from components.line_finder import making
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from htr_client import image_files
from htr_client.pages import Page, find_lines, write
from pipeline.recipes import base_line_finder
from pipeline.recipes.base_line_finder import EVALUATION, TRAINING, VALIDATION, PageSet
from serving.local_lines import LocalLineFinder
from tests.components.line_pages import drawn_page

pytestmark = pytest.mark.slow

LETTERS = PageSet(
    "letters", "Somebody's letters, CC BY 4.0", r"page-(\d+)", ((EVALUATION, "[01]"), (VALIDATION, "2"))
)  # fmt: skip


def write_page(folder, seed, grey=0, down=0.0, text=""):
    """A drawn page, its image darker, its lines moved down, or with texts."""
    page = drawn_page(seed)
    height, width = page.grey.shape
    lines = [replace(line, text=text, baseline=tuple((x, y + down) for x, y in line.baseline)) for line in page.lines]
    (folder / f"{page.name}.png").write_bytes(image_files.encode(page.grey - np.uint8(grey)))
    (folder / f"{page.name}.xml").write_text(write(Page(f"{page.name}.png", width, height, tuple(lines)), "alto"))


@pytest.fixture
def sets(tmp_path):
    folder = tmp_path / "sets" / "pages" / "letters"
    folder.mkdir(parents=True)
    for seed in range(6):
        write_page(folder, seed)
    return tmp_path / "sets"


@pytest.mark.either_stack
def test_from_pages_to_the_packed_files(sets, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(base_line_finder, "RECIPE", (LETTERS,))
    monkeypatch.setattr(base_line_finder, "RENDERED", 2)
    monkeypatch.setattr(
        base_line_finder, "LineFinderConfig", lambda: LineFinderConfig(longest=320, filters=[4, 8, 8, 8, 8])
    )
    monkeypatch.setattr(
        base_line_finder, "LineTrainingConfig",
        lambda epochs=2: LineTrainingConfig(epochs=epochs, window=(96, 128), validate_every=1),
    )  # fmt: skip
    monkeypatch.setattr(packing, "FOLDER", tmp_path / "files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["--data", str(sets), "--folder", str(tmp_path / "made")]
    assert base_line_finder.main(command) == 0
    assert packing.presets() == []  # it is no recogniser
    with LocalLineFinder(packing.unpack(packing.PAGES)) as finder:
        page = drawn_page(7)
        maps, scale = finder.maps(image_files.encode(page.grey))
        assert maps.shape == (160, 128, 3) and scale == 0.5
        find_lines(maps, scale, 256, 320)
    packed = tmp_path / "files" / packing.PAGES
    card = (packed / "model_card.md").read_text(encoding="utf-8")
    metrics = json.loads((packed / "metrics.json").read_text(encoding="utf-8"))
    assert "Somebody's letters" in card and "| letters | 2 |" in card and "5 pages" in card
    assert metrics["evaluation"]["letters"]["lines"] == sum(len(drawn_page(seed).lines) for seed in (0, 1))

    # Again: nothing is trained anew.
    capfd.readouterr()
    assert base_line_finder.main(command) == 0
    assert "Training" not in capfd.readouterr().err
    # Of an interrupted training, the best weights so far.
    assert base_line_finder.main([*command, "--so-far"]) == 0
    capfd.readouterr()
    assert base_line_finder.main([*command, "--epochs", "9", "--so-far"]) == 1
    assert "has not been validated yet" in capfd.readouterr().err


def test_a_training_on_other_images_or_labels_begins_anew(sets, tmp_path, monkeypatch):
    def interrupted(*given):
        states.append(given[5])
        raise making.NotValidated("stopped here")

    monkeypatch.setattr(base_line_finder, "RECIPE", (LETTERS,))
    monkeypatch.setattr(base_line_finder, "RENDERED", 0)
    monkeypatch.setattr(making, "make_version", interrupted)
    states, folder = [], sets / "pages" / "letters"
    for seed, change in (
        (3, {}), (3, {"text": "Anna"}), (3, {"down": 2.0}), (2, {"down": 2.0}), (4, {"grey": 1}), (0, {"grey": 1}),
    ):  # fmt: skip
        write_page(folder, seed, **change)
        assert base_line_finder.main(["--data", str(sets), "--folder", str(tmp_path / "made")]) == 1
    same = [states[i] == states[i - 1] for i in range(1, len(states))]
    assert same == [True, False, False, False, True], "texts and evaluation pages do not count"


def test_a_missing_folder_is_named(tmp_path, capfd):
    assert base_line_finder.main(["--data", str(tmp_path)]) == 1
    assert f"{tmp_path}/pages/poilus does not exist" in capfd.readouterr().err


def test_splits_keep_documents_together_and_stay_the_same():
    drawn = PageSet("drawn", "", "")
    splits = [drawn.split_of(f"document-{i}") for i in range(1000)]
    shares = {split: np.mean([one == split for one in splits]) for split in (TRAINING, VALIDATION, EVALUATION)}
    assert 0.70 < shares[TRAINING] < 0.78 and 0.07 < shares[VALIDATION] < 0.13 and 0.13 < shares[EVALUATION] < 0.19
    assert splits == [drawn.split_of(f"document-{i}") for i in range(1000)]
    assert [LETTERS.split_of(one) for one in "0123"] == [EVALUATION, EVALUATION, VALIDATION, TRAINING]
