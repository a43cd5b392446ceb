"""The line finder learns from pages, goes on after a kill, and answers in service what it answered in training."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tensorflow as tf

from components.base_model import packing
from components.common import storage
from components.example_gen.rejects import Rejected
from components.line_finder.augmentation import STEEPEST, draw_window
from components.line_finder.card import model_card
from components.line_finder.data import draw_number, load_pages
from components.line_finder.examples import encode, read_examples
from components.line_finder.export import ServedLineFinder, save
from components.line_finder.export_again import export_again
from components.line_finder.fitting import LineFitting, finder
from components.line_finder.metric import LineScore, score_page
from components.line_finder.model import build
from components.line_finder.preprocessing import local_ink, scaled_ink
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from components.line_finder.warm_start import find_start
from components.tools.sample_data import generate
from components.trainer.warm_start import WarmStartError
from htr_client import image_files
from htr_client.pages import Page, find_page, write
from serving.local import LocalClient
from serving.local_lines import LocalLineFinder
from serving.status import ServingError
from serving.version_directory import SETTINGS_FILE
from tests.components.line_pages import drawn_page, straight, written_page

CONFIG = LineFinderConfig(longest=320, filters=[4, 8, 12, 16, 16])
TRAIN = LineTrainingConfig(
    epochs=3, windows=1, batch_size=2, window=(128, 160), augment=0.3, average_steps=5, checkpoint_minutes=1e-9
)
PAGES = [drawn_page(seed) for seed in range(4)]


def fitting(folder=None, train=TRAIN, pages=PAGES):
    tf.keras.utils.set_random_seed(7)
    return LineFitting(build(CONFIG), CONFIG, pages, PAGES[:1], train, str(folder) if folder else None)


def test_the_network_is_small_and_answers_for_every_other_pixel():
    model = build(LineFinderConfig())
    assert model.count_params() < 2_000_000
    assert model(tf.zeros([1, 64, 96, 1])).shape == (1, 32, 48, 3)


@pytest.mark.slow
@pytest.mark.either_stack
def test_a_loss_that_is_no_number_ends_the_training_and_names_the_rate_that_it_took():
    broken = LineFitting(build(CONFIG), CONFIG, PAGES, PAGES[:1], LineTrainingConfig(epochs=1))
    broken.model.trainable_variables[0].assign(broken.model.trainable_variables[0] * np.nan)
    with pytest.raises(FloatingPointError, match=r"lower line_training\.learning_rate \(it is 0\.003\)"):
        broken.run()


@pytest.mark.parametrize("paper", [0, 30, 128, 255])
def test_empty_paper_is_no_ink(paper):
    assert not local_ink(tf.fill([1, 40, 50, 1], float(paper))).numpy().any()


def test_ink_is_the_same_on_dark_paper_in_a_dark_corner_and_when_faint():
    grey = PAGES[0].grey.astype(np.float32)[..., None]
    ink = scaled_ink(tf.constant(grey), CONFIG)[0].numpy()
    strokes = grey[None] < 120
    assert ink[strokes].mean() > 0.8 and abs(ink[grey[None] > 215].mean()) < 0.3
    assert np.abs(scaled_ink(tf.constant(255 - grey), CONFIG)[0].numpy() - ink).max() < 1e-4
    shaded = grey * np.linspace(0.4, 1, grey.shape[1])[None, :, None]
    assert scaled_ink(tf.constant(shaded), CONFIG)[0].numpy()[strokes].mean() > 0.7


@pytest.mark.parametrize(("size", "cells"), [((320, 256), (160, 128)), ((640, 100), (160, 25)), ((40, 30), (40, 30))])
def test_pages_are_scaled_to_the_longest_side_and_small_ones_doubled(size, cells):
    ink, covered, scale = scaled_ink(tf.zeros([*size, 1]), CONFIG)
    assert tuple(covered.numpy()) == cells
    assert all(side % 32 == 0 for side in ink.shape[1:3])
    assert float(scale) == pytest.approx(cells[0] / size[0])


def test_a_plain_window_is_a_cut_of_the_page():
    page = PAGES[0]
    window = draw_window(page.grey, page.lines, (128, 160), 1.0, 0.0, np.random.default_rng(3))
    # Its lines lie where the scribbles are: the row of most ink is just above a baseline.
    looked_at = 0
    for line in window.lines:
        (left, y), (right, _) = line.baseline
        left, right = max(left, 0), min(right, 159)
        if 16 < y < 124 and right - left > 40:
            rows = window.grey[y - 16 : y + 4, left:right].mean(1)
            assert 4 <= rows.argmin() <= 19 and rows.min() < 200
            looked_at += 1
    assert looked_at == 3


@pytest.mark.parametrize("seed", range(6))
def test_lines_go_along_with_their_augmented_pixels(seed):
    grey = np.full((600, 800), 255, np.uint8)
    lines = [straight(100, 700, y) for y in range(100, 560, 60)]
    for line in lines:
        cv2.polylines(grey, [np.array(line.baseline)], False, 0, 3)
    rng, seen = np.random.default_rng(seed), []
    for _ in range(30):  # in many windows no line ends
        window = draw_window(grey, lines, (256, 320), 1.0, 1.0, rng)
        for line in window.lines:
            for x, y in line.baseline:
                if 8 <= x < 312 and 8 <= y < 248:
                    around = window.grey[y - 3 : y + 4, x - 3 : x + 4]
                    seen.append(int(np.median(window.grey)) - int(around.min()))
        if len(seen) >= 3:
            break
    assert len(seen) >= 3 and all(darker > 25 for darker in seen)


@pytest.mark.either_stack
def test_windows_follow_from_the_seed():
    first, again, other = (fitting(train=TRAIN.model_copy(update={"seed": seed}))._batch(1) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_an_example_may_take_more_bytes_than_an_image_that_users_send(tmp_path, monkeypatch):
    file = str(tmp_path / "pages.gz")
    with tf.io.TFRecordWriter(file, "GZIP") as writer:
        writer.write(encode(PAGES[0]))
    monkeypatch.setattr(image_files, "MAX_BYTES", 1000)
    (page,) = read_examples([file])
    assert np.array_equal(page.grey, PAGES[0].grey) and page.lines == PAGES[0].lines


def test_a_negative_is_learnt_from_as_it_is_served():
    negatives = [replace(page, grey=255 - page.grey) for page in PAGES]
    windows, same = (fitting(pages=pages)._batch(1)[0] for pages in (PAGES, negatives))
    assert np.array_equal(windows, same)


@pytest.mark.slow
def test_it_learns_to_find_lines(tmp_path):
    train = TRAIN.model_copy(update={"epochs": 40, "windows": 2, "validate_every": 40, "average_steps": 20})
    training = fitting(train=train)
    training.run()
    page = drawn_page(99)
    assert score_page(page.lines, finder(training.model, CONFIG)(page.grey)).f1 >= 0.9
    assert training.best.f1 >= 0.9 and training.history[-1]["epoch"] == 40


class _Killed(Exception):
    pass


@pytest.mark.either_stack
@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    interrupted, straight_on = fitting(tmp_path / "state"), fitting()
    step = interrupted._step

    def killed_in_the_third_epoch(*batch):
        if interrupted.done == 2 * interrupted.plan.steps + 1:
            raise _Killed
        return step(*batch)

    interrupted._step = killed_in_the_third_epoch
    with pytest.raises(_Killed):
        interrupted.run()
    resumed = fitting(tmp_path / "state")
    resumed.run()
    straight_on.run()
    assert interrupted.done < resumed.done == straight_on.done
    assert [entry["epoch"] for entry in resumed.history] == [entry["epoch"] for entry in straight_on.history] == [2, 3]
    for a, b in zip(resumed.model.variables, straight_on.model.variables, strict=True):
        assert np.allclose(a.numpy(), b.numpy(), atol=1e-3), a.path


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """An exported line finder with random weights, and the network itself."""
    tf.keras.utils.set_random_seed(3)
    model = build(CONFIG)
    folder = tmp_path_factory.mktemp("lines") / "1"
    save(ServedLineFinder(model, CONFIG), str(folder), CONFIG, {})
    return folder, model


def test_a_server_finds_the_lines_that_training_found(version):
    folder, model = version
    # Random weights mark nothing for certain: the maps are compared.
    page = PAGES[1]
    ink, cells, scale = scaled_ink(tf.constant(page.grey[..., None], tf.float32), CONFIG)
    expected = tf.sigmoid(model(ink)[0, : cells[0], : cells[1]]).numpy()
    with LocalLineFinder(folder) as served:
        maps, served_scale = served.maps(image_files.encode(page.grey))
    assert maps.dtype == np.uint8 and served_scale == pytest.approx(float(scale))
    assert np.abs(maps / 255 - expected).max() <= 0.5 / 255 + 1e-3


@pytest.mark.slow
def test_exported_anew_a_line_finder_answers_the_same(version, tmp_path):
    folders = version[0], tmp_path / "1"
    export_again(*map(str, folders))
    answers = []
    for folder in folders:
        with LocalLineFinder(folder) as served:
            answers.append(served.maps(image_files.encode(PAGES[0].grey)))
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    assert answers[0][1] == answers[1][1]
    before, after = (json.loads((folder / SETTINGS_FILE).read_text()) for folder in folders)
    assert before == after


def test_a_version_that_is_no_line_finder_is_refused():
    with pytest.raises(ServingError, match="is no line finder: it has no find_lines"):
        LocalLineFinder(packing.unpack("word"))


def test_a_training_starts_from_a_version(version):
    folder, model = version
    started = LineFitting(build(CONFIG), CONFIG, PAGES, PAGES[:1], TRAIN, start=str(folder))
    for own, exported in zip(started.model.variables, model.variables, strict=True):
        assert np.array_equal(own.numpy(), exported.numpy()), own.path
    assert started.plan.learning_rate < fitting().plan.learning_rate
    wider = CONFIG.model_copy(update={"filters": [4, 8, 12, 16, 20]})
    with pytest.raises(WarmStartError, match="another network"):
        LineFitting(build(wider), wider, PAGES, PAGES[:1], TRAIN, start=str(folder))
    with pytest.raises(WarmStartError, match=r"line_finder\.filters is \[4, 8, 12, 16, 20\] here"):
        find_start(TRAIN.model_copy(update={"warm_start": str(folder.parent)}), wider)
    assert find_start(TRAIN.model_copy(update={"warm_start": str(folder.parent)}), CONFIG).version == str(folder)


@pytest.mark.slow
@pytest.mark.either_stack
def test_the_average_of_a_warm_start_begins_at_its_base(version, monkeypatch):
    folder, model = version
    train = TRAIN.model_copy(update={"learning_rate": 0.1, "warmup_epochs": 0.0, "average_steps": 10_000})
    started = LineFitting(build(CONFIG), CONFIG, PAGES, PAGES[:1], train, start=str(folder))
    scores = iter(LineScore(10, 10, matched) for matched in range(10))  # the last epoch is the best
    monkeypatch.setattr(started, "validate", lambda: next(scores))
    started.run()
    assert started.best_epoch == train.epochs
    for averaged, base in zip(started.model.trainable_variables, model.trainable_variables, strict=True):
        assert np.allclose(averaged.numpy(), base.numpy(), atol=0.01), "few steps weigh some ten-thousandths"


@pytest.mark.slow
@pytest.mark.either_stack
def test_a_loss_that_is_no_number_ends_a_warm_start_with_its_best_weights(version, capsys):
    folder, model = version
    train = TRAIN.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30})
    started = LineFitting(build(CONFIG), CONFIG, PAGES, PAGES[:1], train, start=str(folder))
    started.run()
    assert [entry["epoch"] for entry in started.history] == [0] and started.best_epoch == 0
    for own, base in zip(started.model.variables, model.variables, strict=True):
        assert np.array_equal(own.numpy(), base.numpy()), own.path
    told = " ".join(capsys.readouterr().err.split())
    assert "nan in epoch 2: lower line_training.learning_rate (it is 1e+30); training stops here" in told


def test_the_card_tells_what_training_did():
    history = [{"epoch": 0, "seconds": 0.0}, {"epoch": 2, "seconds": 60.0}]  # the loss was no number in the third epoch
    metrics = {
        "parameters": 1, "pages": 4, "start": {"name": "a version"}, "history": history, "best_epoch": 2,
        "evaluation": {},
    }  # fmt: skip
    card = model_card(CONFIG, TRAIN.model_copy(update={"augment": 0.5}), [], metrics)
    assert f"angle up to {STEEPEST / 2:g} degrees" in card and "; 2 epochs of 1 augmented windows" in card


def test_the_card_claims_of_the_evaluation_pages_what_is_known_of_them():
    metrics = {"parameters": 1, "pages": 40, "start": {"name": "a version"}, "best_epoch": 1}
    metrics["history"] = [{"epoch": 1, "seconds": 60.0}]

    def written(pages, **more):
        scores = {"pages": pages, "lines": 90, "f1": 0.9, "precision": 0.9, "recall": 0.9}
        return model_card(CONFIG, TRAIN, [], {**metrics, "evaluation": {"evaluation split": scores}, **more})

    known, unknown = written(10, unnamed_documents=0), written(9, unnamed_documents=7)
    assert "On pages of documents that training did not see:" in known and "divided by document" in known
    assert "rest on" not in known and "7 pages name none" not in known
    assert "may have seen others of the same documents, since 7 pages name none" in unknown
    assert "divided by document" not in unknown and "rest on 9 pages only and have no intervals" in unknown


@pytest.mark.skipif(not (packing.FOLDER / packing.PAGES).is_dir(), reason="no base line finder is shipped")
def test_a_network_of_other_sizes_does_not_start_from_the_base_line_finder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    start = find_start(TRAIN, CONFIG)
    assert start.version is None and "has other line_finder.filters" in start.name
    assert find_start(TRAIN, LineFinderConfig()).is_base


def test_pages_of_a_request_do_not_influence_each_other(version):
    folder, _ = version
    images = [image_files.encode(page.grey[:, : 256 - 60 * i]) for i, page in enumerate(PAGES[:2])]
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        signature = meta.signature_def["find_lines"]

        def run(batch):
            outputs = {name: signature.outputs[name].name for name in ("maps", "scale")}
            return session.run(outputs, {signature.inputs["image_bytes"].name: batch})

        together = run([*images, b"no image at all" * 10, b""])
        alone = [run([image]) for image in images]
        nothing = run(np.array([], object))
    assert nothing["maps"].shape[0] == 0 and nothing["scale"].shape == (0,)
    assert together["maps"].shape == (4, 160, 128, 3)
    for i, one in enumerate(alone):
        rows, columns = one["maps"].shape[1:3]
        assert np.array_equal(together["maps"][i, :rows, :columns], one["maps"][0])
        assert not together["maps"][i, rows:].any() and together["scale"][i] == one["scale"][0]
    # What cannot be decoded has no scale, and spoils nothing.
    assert not together["maps"][2:].any() and not together["scale"][2:].any()
    assert json.loads((folder / "assets.extra" / "htr.json").read_text())["line_finder"]["longest"] == 320


def test_a_line_finder_is_no_base_recogniser(version, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "FOLDER", tmp_path / "files")
    folder, _ = version
    with pytest.raises(packing.BaseModelError, match=r"preset=line: it is a line finder\."):
        packing.pack(str(folder), "line")
    with pytest.raises(packing.BaseModelError, match="cannot be the base line finder: it has no model card"):
        packing.pack(str(folder), packing.PAGES)
    with pytest.raises(packing.BaseModelError, match="no base line finder"):
        packing.unpack(packing.PAGES)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Rendered words of one height, on white."""
    summary = generate(tmp_path_factory.mktemp("words") / "words", images=60, seed=5, dirty_fraction=0)
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((summary.directory / "images").iterdir())]
    images = [cv2.resize(image, (44 * image.shape[1] // len(image), 44)) for image in images]
    return [np.clip(image * (235 / np.median(image)), 0, 255).astype(np.uint8) for image in images]


def rendered_page(words, columns=1, rows=14):
    """A page of rendered words, and its lines, column by column."""
    page = np.full((1200, 900), 235, np.uint8)
    width = 760 // columns
    lines, words = [], iter(words * 9)
    for column in range(columns):
        left, y = 70 + column * (width + 40), 130
        for _ in range(rows):
            x = left
            while (word := next(words)).shape[1] + x < left + width - 30:
                height = len(word)
                below = page[y - height : y, x : x + word.shape[1]]
                page[y - height : y, x : x + word.shape[1]] = np.minimum(below, word)
                x += word.shape[1] + 12
            if x > left:
                lines.append(straight(left, x - 12, y - 10, above=34, below=14))
            y += 70
    return page, lines


def turned(page, degrees):
    """The page turned about its middle, and the matrix that does so."""
    height, width = page.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.9)
    return cv2.warpAffine(page, matrix, (width, height), borderValue=20), matrix


HAPPENS = {
    "scanned": lambda page: (page, np.eye(2, 3)),
    "white on black": lambda page: (255 - page, np.eye(2, 3)),
    "skewed on a dark table": lambda page: turned(page, 10),
    "in the shade": lambda page: ((page * np.linspace(0.3, 1, 900)).astype(np.uint8), np.eye(2, 3)),
}


@pytest.mark.parametrize("columns", [1, 2] if (packing.FOLDER / packing.PAGES).is_dir() else [])
@pytest.mark.parametrize("what", HAPPENS)
def test_the_shipped_finder_finds_rendered_lines_in_order(words, columns, what, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page, lines = rendered_page(words, columns)
    image, matrix = HAPPENS[what](page)
    with LocalLineFinder(packing.unpack(packing.PAGES)) as shipped:
        found = find_page(image, shipped.maps).lines
        assert find_page(np.full((1200, 900), 240, np.uint8), shipped.maps).lines == ()

    def moved(points):
        return tuple(map(tuple, np.rint(np.array(points) @ matrix[:, :2].T + matrix[:, 2]).astype(int)))

    lines = [replace(line, baseline=moved(line.baseline), polygon=moved(line.polygon)) for line in lines]
    assert score_page(lines, found).f1 >= 0.9
    # Each found line has its place in the true order.
    order = [max(range(len(lines)), key=lambda i: score_page([lines[i]], [one]).matched) for one in found]
    known = [place for place, one in zip(order, found, strict=True) if score_page([lines[place]], [one]).matched]
    assert known == sorted(known)


@pytest.mark.parametrize("quarters", [1, 3])
@pytest.mark.parametrize("seed", [0, 1, 2] if (packing.FOLDER / packing.PAGES).is_dir() else [])
def test_a_page_on_its_side_is_not_read_upside_down(seed, quarters, tmp_path, monkeypatch):
    """Upside down, the network marks less of these lines, but of some in fewer pieces."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with LocalLineFinder(packing.unpack(packing.PAGES)) as shipped:
        found = find_page(np.rot90(written_page(seed), quarters), shipped.maps).lines
    assert len(found) > 20
    # Turned to the left, text runs upwards.
    assert {np.sign(line.baseline[-1][1] - line.baseline[0][1]) for line in found} == {quarters - 2}


@pytest.mark.skipif(not (packing.FOLDER / packing.PAGES).is_dir(), reason="no base line finder is shipped")
def test_the_shipped_models_tell_which_way_up_a_page_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page, along = written_page(0), [(1, 0), (0, -1), (-1, 0), (0, 1)]
    finder, recogniser = LocalLineFinder(packing.unpack(packing.PAGES)), LocalClient(packing.unpack("line"))
    with finder, recogniser:
        for quarters in range(4):
            found = find_page(np.rot90(page, quarters), finder.maps, recognise=recogniser.transcribe_many).lines
            assert len(found) > 20
            assert all(np.subtract(line.baseline[-1], line.baseline[0]) @ along[quarters] > 0 for line in found)


def test_pages_come_from_alto_and_page_xml(tmp_path):
    for i, form in enumerate(("alto", "page")):
        page = PAGES[i]
        height, width = page.grey.shape
        name = f"letter-{i}-1"
        storage.write(str(tmp_path / f"{name}.png"), image_files.encode(page.grey))
        content = write(Page(f"{name}.png", width, height, page.lines), form)
        storage.write(str(tmp_path / f"{name}.xml"), content.encode())
    loaded = list(load_pages([str(tmp_path)], 160, r"letter-(\d)"))
    assert [page.document for page in loaded] == ["0", "1"]
    for page, drawn in zip(loaded, PAGES, strict=False):
        assert page.grey.shape == (160, 128)
        assert score_page(page.lines, Page("", 256, 320, drawn.lines).scaled(128, 160).lines).f1 == 1.0


def test_a_page_without_baselines_is_refused_by_name(tmp_path):
    line = straight(10, 90, 50)
    page = Page("a.png", 100, 100, (type(line)(polygon=line.polygon),))
    storage.write(str(tmp_path / "a.png"), image_files.encode(np.full((100, 100), 200, np.uint8)))
    storage.write(str(tmp_path / "a.xml"), write(page, "alto").encode())
    with pytest.raises(Rejected, match=re.escape(str(tmp_path / "a.xml")) + ".*baseline"):
        list(load_pages([str(tmp_path)], 100))


def test_numbers_of_documents_stay_the_same_and_spread():
    numbers = [draw_number(f"document-{i}") for i in range(500)]
    assert draw_number("document-0") == numbers[0]
    assert 0 <= min(numbers) < 0.02 and 0.98 < max(numbers) < 1
