"""What people trust a trainer for: the same seed the same curve, resuming, warm starts, nothing lost silently."""

import contextlib
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_serving.apis import prediction_log_pb2
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration import metadata
from tfx.orchestration.pipeline import Pipeline

from components.common.words import counted
from components.trainer import accelerators, export, fitting, training, transfer, tuning
from components.trainer.fitting import Fitting, Seen, read_first
from components.trainer.input_pipeline import batches, plain_batches
from components.trainer.model import build
from components.trainer.settings import TuneConfig
from components.trainer.temperature import fit_temperature
from components.trainer.warm_start import temperature_of
from components.transform import preprocessing
from components.transform.settings import TransformConfig
from pipeline.exit_codes import root_message
from pipeline.runners.local_runner import LocalRunner
from serving import precision
from serving.version_directory import SETTINGS_FILE, WARMUP_FILE
from tests.components.toy import COLD, LINE, SMALL, TRAIN, WORDS, arguments, fit, source_of, start, write_transformed
from tests.conftest import until

pytestmark = pytest.mark.slow  # networks are trained

WORD = TransformConfig()
GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"
asked: list[str | None] = []


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Words of one to sixteen letters, each image as wide as its word."""
    words = [("abcabbca" * 2)[: 1 + i % 16] for i in range(160)]
    return write_transformed(tmp_path_factory.mktemp("lines"), words, LINE)


@pytest.fixture
def capable_gpu(monkeypatch):
    """A GPU that TensorFlow tells of. Nothing can compute on it; what is asked for float16 does so on the CPU."""
    devices, gpu = tf.config.list_physical_devices, tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    details = {"compute_capability": (8, 0), "device_name": "Test GPU"}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu] if kind == "GPU" else devices(kind))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    yield
    keras.mixed_precision.set_global_policy("float32")


def losses(history):
    return [(epoch["loss"], epoch["validation_cer"]) for epoch in history]


@pytest.mark.either_stack
def test_a_seed_gives_one_curve_and_another_seed_another(toy):
    train = COLD.model_copy(update={"epochs": 1, "augment": 0.5})
    first, again = (fit(source_of(toy), train) for _ in range(2))
    np.testing.assert_allclose(losses(first.history), losses(again.history), rtol=1e-4)
    other = fit(source_of(toy), train.model_copy(update={"seed": 2}))
    assert abs(other.history[0]["loss"] - first.history[0]["loss"]) > 1e-3


@pytest.mark.either_stack
def test_batches_go_on_where_an_interrupted_training_stopped(lines):
    source = source_of(lines, LINE)
    train = TRAIN.model_copy(update={"augment": 0.7})
    whole = list(batches(source, train, epochs=2))
    assert len(whole) == 2 * source.steps(train.batch_size)
    for done in (3, source.steps(train.batch_size) + 2):
        rest = list(batches(source, train, epochs=2, done=done))
        assert len(rest) == len(whole) - done
        for (inputs, labels), (expected, expected_labels) in zip(rest, whole[done:], strict=True):
            np.testing.assert_array_equal(inputs["images"], expected["images"])
            np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.either_stack
def test_the_order_of_the_batches_does_not_follow_from_what_ran_before(lines):
    def labels(seed_of_the_process):
        tf.random.set_seed(seed_of_the_process)
        return np.concatenate([batch.numpy().flatten() for _, batch in batches(source_of(lines, LINE), TRAIN)]).tolist()

    assert labels(0) == labels(5) == labels(TRAIN.seed)  # a line finder's training leaves 0


def test_every_image_is_seen_once_in_an_epoch(lines):
    source = source_of(lines, LINE)
    seen = sorted(tuple(row[row >= 0]) for _, labels in batches(source, TRAIN) for row in labels.numpy())
    expected = sorted(
        tuple("abc".index(c) for c in t.decode()) for _, ts in plain_batches(source, 7) for t in ts.numpy()
    )
    assert seen == expected and len(seen) == 160


def test_buckets_waste_little_on_padding(lines):
    source = source_of(lines, LINE)
    assert len(source.bounds) > 3

    def padding(bounded):
        filled = [float(tf.reduce_mean(x["widths"] / x["images"].shape[2])) for x, _ in batches(bounded, TRAIN)]
        return 1 - np.mean(filled)

    one_bucket = source_of(lines, LINE)
    object.__setattr__(one_bucket, "bounds", [])
    assert padding(source) < 0.15 < 0.3 < padding(one_bucket)


@pytest.mark.either_stack
def test_images_that_cannot_be_aligned_are_named_and_left_out(tmp_path, capsys):
    transform = TransformConfig(preset="word", height=32, width=32)  # eight frames
    folder = write_transformed(tmp_path, ["ab", "abcabcabc", "aaaaa", "abc"] * 6, transform)
    source = source_of(folder, transform)
    assert source.unalignable == [str(i) for i in range(24) if i % 4 in (1, 2)] and source.samples == 12
    train = TRAIN.model_copy(update={"epochs": 1})
    training.run_fn(SimpleNamespace(**arguments(folder, tmp_path / "out", train, transform)))
    assert "left out 12 images with fewer frames than the label needs: 1, 2, 5" in capsys.readouterr().err
    named = json.loads((tmp_path / "out" / "run" / training.UNALIGNABLE_FILE).read_text())
    assert named == source.unalignable
    history = json.loads((tmp_path / "out" / "run" / training.HISTORY_FILE).read_text())
    assert np.isfinite(history[0]["loss"])


def test_a_version_holds_no_image_of_the_data(toy_version):
    """Its warm-up images have the sizes of validation images, and nothing else of them."""
    source, images = source_of(toy_version.parents[1] / "data", LINE), set()
    for record in tf.data.TFRecordDataset(str(toy_version / WARMUP_FILE)).as_numpy_iterator():
        inputs = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request.inputs
        images.update(inputs["image_bytes"].string_val)
    shown, _ = next(iter(plain_batches(source, 4)))
    shapes = [(LINE.height, int(width), 1) for width in shown["widths"]]
    assert {tuple(tf.io.decode_png(image).shape) for image in images} == set(shapes)
    assert images == {export.drawn_image(height, width) for height, width, _ in shapes}, "made from the size alone"
    drawn = [tf.io.decode_png(image).numpy() for image in images]
    files = b"".join(path.read_bytes() for path in toy_version.rglob("*") if path.is_file())
    for record in tf.data.TFRecordDataset(source.files, "GZIP").as_numpy_iterator():
        (png,) = tf.train.Example.FromString(record).features.feature["image_png"].bytes_list.value
        assert png not in files
        ink = tf.io.decode_png(png).numpy()
        for other in (image for image in drawn if image.shape == ink.shape):
            assert np.mean((other < 128) == (ink > 128)) < 0.9


def test_nothing_to_train_on_is_an_error_that_says_why(tmp_path):
    transform = TransformConfig(preset="word", height=32, width=32)
    folder = write_transformed(tmp_path, ["aaaaaaa"] * 3, transform)
    with pytest.raises(ValueError, match=r"too narrow for their labels; see transform\.preset"):
        training.run_fn(SimpleNamespace(**arguments(folder, tmp_path / "out", TRAIN, transform)))


@pytest.mark.either_stack
def test_a_training_killed_in_mid_epoch_goes_on_and_ends_as_if_it_had_not(toy, tmp_path, capsys):
    train = TRAIN.model_copy(update={"epochs": 3, "augment": 0.5, "checkpoint_minutes": 1e-4, "shuffle_buffer": 50})
    model = SMALL.model_copy(update={"dropout": 0.3})  # whose state belongs to the training's
    given = {name: arguments(toy, tmp_path / name, train, WORD) for name in ("whole", "killed")}
    for each in given.values():
        each["custom_config"]["model"] = model.model_dump_json()
    training.run_fn(SimpleNamespace(**given["whole"]))
    (tmp_path / "killed.json").write_text(json.dumps(given["killed"]))
    process = start(tmp_path / "killed.json")
    checkpoints = tmp_path / "killed" / "checkpoints"

    def steps_done():
        files = list(checkpoints.glob("*/checkpoint.npz"))
        return json.loads(np.load(files[0])["progress"].tobytes())["done"] if files else 0

    said = Path(f"{tmp_path}/killed.json.log").read_text
    until(lambda: steps_done() >= 30 or process.poll() is not None, 120, said)
    assert process.poll() is None, said()
    process.kill()
    process.wait()
    done = steps_done()
    assert 30 <= done < 3 * 24 and done % 24, "killed within an epoch"
    capsys.readouterr()
    training.run_fn(SimpleNamespace(**given["killed"]))
    told = " ".join(capsys.readouterr().err.split())
    assert f"going on after {counted(done // 24, 'epoch')} and {counted(done % 24, 'batch', 'batches')}" in told
    whole, resumed = (
        json.loads((tmp_path / name / "run" / training.HISTORY_FILE).read_text()) for name in ("whole", "killed")
    )
    np.testing.assert_allclose(losses(resumed), losses(whole), rtol=1e-4)
    assert not list(checkpoints.glob("*/*.npz")), "a checkpoint that has been used is deleted"


@pytest.mark.either_stack
def test_a_changed_setting_does_not_resume_another_training(toy, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit_temperature", interrupted)
    resumed = []
    for seed in (1, 5, 1):
        train = TRAIN.model_copy(update={"epochs": 1, "seed": seed})
        with pytest.raises(KeyboardInterrupt):
            training.run_fn(SimpleNamespace(**arguments(toy, tmp_path, train, WORD)))
        resumed.append("going on after 1 epoch" in " ".join(capsys.readouterr().err.split()))
    assert resumed == [False, False, True]


@pytest.mark.either_stack
def test_a_training_interrupted_under_another_precision_starts_anew_and_says_so(toy, tmp_path, request, capsys):
    train = TRAIN.model_copy(update={"epochs": 1, "mixed_precision": True})
    given = SimpleNamespace(**arguments(toy, tmp_path, train, WORD))

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "fit_temperature", interrupted)
        training.run_fn(given)
    assert list(tmp_path.glob("checkpoints/*/checkpoint.npz"))
    request.getfixturevalue("capable_gpu")
    training.run_fn(given)
    told = " ".join(capsys.readouterr().err.split())
    assert "a training that was interrupted used float32, this one mixed_float16: it starts anew" in told
    assert "1 GPU (Test GPU), float16" in told and "going on after" not in told
    history = json.loads((tmp_path / "run" / training.HISTORY_FILE).read_text())
    assert np.isfinite(history[0]["loss"])


def test_accelerators_are_used_also_after_an_earlier_step_has_used_tensorflow(capable_gpu, monkeypatch):
    monkeypatch.delenv(GROWTH, raising=False)
    assert tf.executing_eagerly() and float(tf.constant(1.0)) == 1.0
    assert (
        accelerators.use_accelerators(TRAIN.model_copy(update={"mixed_precision": True})) == "1 GPU (Test GPU), float16"
    )
    assert os.environ[GROWTH] == "true"


@pytest.mark.parametrize("diverges", [False, True])
def test_a_training_in_bfloat16_leaves_float32_behind(toy, tmp_path, monkeypatch, capsys, diverges):
    """Steps of one process share TensorFlow's settings, and the Evaluator measures what clients get."""

    def in_bfloat16() -> bool:
        return tf.config.optimizer.get_experimental_options().get("auto_mixed_precision_onednn_bfloat16", False)

    class Noting(Fitting):
        def run(self, *args, **kwargs):
            seen.append(in_bfloat16())
            if diverges:
                raise FloatingPointError("the loss is no longer finite")
            super().run(*args, **kwargs)

    monkeypatch.setattr(training, "Fitting", Noting)
    for asked in (True, False):
        seen: list[bool] = []
        train = TRAIN.model_copy(update={"epochs": 1, "bfloat16": asked})
        given = SimpleNamespace(**arguments(toy, tmp_path / str(asked), train, WORD))
        with pytest.raises(FloatingPointError) if diverges else contextlib.nullcontext():
            training.run_fn(given)
        expected = asked and precision.has_bfloat16()
        assert seen == [expected] and not in_bfloat16()
        assert (", bfloat16" in capsys.readouterr().err) is expected


@pytest.mark.parametrize(("has", "asked"), [(True, True), (False, True), (False, False)])
def test_a_processor_without_bfloat16_is_told_of(monkeypatch, capsys, has, asked):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: has)
    used = accelerators.use_accelerators(TRAIN.model_copy(update={"bfloat16": asked}))
    precision.use_bfloat16(False)
    assert used.endswith(", bfloat16") is (has and asked)
    told = " ".join(capsys.readouterr().err.split())
    assert ("train.bfloat16: this machine's processor has neither" in told) is (asked and not has)


@component
def AsksForGrowth():
    asked.append(os.environ.get(GROWTH))


@pytest.mark.parametrize(("before", "within"), [(None, "true"), ("false", "false")])
def test_gpu_memory_grows_from_the_first_step_on(tmp_path, monkeypatch, before, within):
    """TensorFlow reads the variable when a process uses it for the first time, which Transform may do."""
    monkeypatch.setenv(GROWTH, before or "")
    if before is None:
        monkeypatch.delenv(GROWTH)
    asked.clear()
    database = metadata.sqlite_metadata_connection_config(str(tmp_path / "metadata.sqlite"))
    LocalRunner().run(Pipeline("asks", str(tmp_path), database, [AsksForGrowth()]))
    assert asked == [within]


@pytest.mark.either_stack
def test_warm_start_knows_old_characters_and_learns_new_ones(toy, toy_model, tmp_path):
    grown = write_transformed(tmp_path, [w.replace("c", "d") if i % 2 else w for i, w in enumerate(WORDS * 12)],
                              WORD)  # fmt: skip
    alphabet = preprocessing.read_alphabet(tft.TFTransformOutput(str(grown / "tft")))
    assert alphabet == ["a", "b", "c", "d"]
    keras.utils.set_random_seed(2)
    model = build(SMALL, 5, 32)
    taken = transfer.start_from(model, alphabet, str(toy_model))
    assert taken.told == "3 characters known, 1 new: d" and taken.new == [3]
    many = ["a", *map(chr, range(0x300, 0x300 + 300))]
    told = transfer.start_from(build(SMALL, 302, 32), many, str(toy_model)).told
    assert told.startswith("1 characters known, 300 new: ◌\u0300 ◌") and told.endswith(" and 100 more")
    old_words = Fitting(model, source_of(toy), source_of(toy), alphabet, COLD)
    assert old_words.validate().rate < 0.1, "what was known is still known"

    searching = TRAIN.model_copy(update={"epochs": 1, "warm_start": str(toy_model),
                                         "freeze": ["convolutions", "recurrent"]})  # fmt: skip
    given = arguments(toy, tmp_path / "tuned", searching, WORD)
    given["custom_config"]["tune"] = TuneConfig(trials=1, epochs=1).model_dump_json()
    found = tuning.tuner_fn(SimpleNamespace(**given, transform_graph_path=str(toy / "tft"), working_dir=str(tmp_path)))
    found.tuner.search(**found.fit_kwargs)
    (trial,) = found.tuner.oracle.get_best_trials(1)
    assert trial.score < 0.3, "a trial begins where training would"
    assert "model.recurrent_units" not in trial.hyperparameters.values

    transfer.freeze(model, ["convolutions"])
    before = [w.numpy() for stage in model.stages for w in stage.weights]
    short = COLD.model_copy(update={"epochs": 8})
    fitting = Fitting(model, source_of(grown), source_of(grown), alphabet, short)
    fitting.run()
    assert fitting.best_cer < 0.1, "and the new character is learnt"
    for weight, value in zip([w for stage in model.stages for w in stage.weights], before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


@pytest.mark.either_stack
def test_warm_start_refuses_another_network_by_name(toy, tmp_path):
    train = TRAIN.model_copy(update={"epochs": 1})
    trained = arguments(toy, tmp_path / "old", train, WORD)
    deep = SMALL.model_copy(update={"recurrent_layers": 2})
    trained["custom_config"]["model"] = deep.model_dump_json()
    training.run_fn(SimpleNamespace(**trained))
    wider = build(deep.model_copy(update={"recurrent_units": 32}), 4, 32)
    with pytest.raises(transfer.WarmStartError, match=r"recurrent_0/forward.*`model` section"):
        transfer.start_from(wider, ["a", "b", "c"], trained["serving_model_dir"])
    convolutions = build(deep.model_copy(update={"filters": [*SMALL.filters, SMALL.filters[-1]]}), 4, 32)
    with pytest.raises(transfer.WarmStartError, match=r"where this network has .*convolution_"):
        transfer.start_from(convolutions, ["a", "b", "c"], trained["serving_model_dir"])
    with pytest.raises(transfer.WarmStartError, match=r"has .*recurrent_1.*, for which this network has no layer"):
        transfer.start_from(build(SMALL, 4, 32), ["a", "b", "c"], trained["serving_model_dir"])


def test_temperature_makes_a_doubtful_network_say_so(toy):
    def overconfident(inputs):
        # Right three times of four, but always sure.
        logits = np.zeros((len(inputs["widths"]), 8, 4), np.float32)
        logits[..., 3] = 12
        logits[:, 0, 0], logits[:, 0, 3] = 12, 0
        return tf.nn.log_softmax(logits), tf.fill([len(logits)], 8)

    assert fit_temperature(read_first(overconfident, source_of(toy)), ["a", "b", "c"]) > 2.0


@pytest.mark.parametrize(
    ("images", "neutral", "expected"), [(5, 1.0, 1.0), (5, 1.3, 1.3), (60, 1.0, 0.5), (0, 1.3, 1.3)]
)
def test_a_few_images_that_are_all_right_make_no_network_surer(images, neutral, expected):
    log_probs = np.log(np.tile(np.float32([0.8, 0.1, 0.1]), (images, 1, 1)))
    seen = [Seen(log_probs, np.ones(images, np.int32), ["a"] * images)]
    assert fit_temperature(seen, ["a", "b"], neutral) == pytest.approx(expected)


def test_images_that_cannot_be_aligned_tell_nothing_of_a_temperature():
    log_probs = np.log(np.tile(np.float32([0.6, 0.3, 0.1]), (120, 2, 1)))
    some = Seen(log_probs, np.full(120, 2, np.int32), ["", "ababa", "ab", "aa"] * 30)
    alone = Seen(log_probs[:30], some.frames[:30], ["ab"] * 30)
    assert fit_temperature([some], ["a", "b"]) == fit_temperature([alone], ["a", "b"])


def test_the_first_images_are_read_with_bounded_memory(toy, monkeypatch):
    given = []

    def long(inputs):
        given.append(len(inputs["widths"]))
        return tf.math.log(tf.fill([given[-1], 1000, 3], 1 / 3)), tf.fill([given[-1]], 1000)

    monkeypatch.setattr(fitting, "MOST_NUMBERS", 50_000)
    source = source_of(toy)
    assert len(list(read_first(long, source))) == 2 and 2 <= len(given) <= 5 < source.samples / 16


@pytest.mark.parametrize(("images", "expected"), [(30, 1.75), (29, 1.0)])
def test_the_temperature_of_a_start_counts_where_enough_images_told_it(tmp_path, images, expected):
    file = tmp_path / SETTINGS_FILE
    file.parent.mkdir()
    file.write_text(json.dumps({"temperature": 1.75, "training": {"validation_images": images}}))
    assert temperature_of(str(tmp_path)) == expected


def test_sheet_shows_originals_and_variants(toy):
    sheet = tf.io.decode_png(training.augmentation_sheet(source_of(toy), TRAIN.model_copy(update={"augment": 1.0})))
    height, width = 32 + 4, 128 + 8
    assert sheet.shape == (8 * height, 5 * width, 1)
    first, second = sheet[:, :width], sheet[:, width : 2 * width]
    assert float(tf.reduce_mean(tf.abs(tf.cast(first, tf.float32) - tf.cast(second, tf.float32)))) > 1


@pytest.mark.either_stack
def test_what_the_tuner_finds_is_what_is_trained(toy, tmp_path):
    train = TRAIN.model_copy(update={"epochs": 1})
    given = arguments(toy, tmp_path, train, WORD)
    given["custom_config"]["tune"] = TuneConfig(trials=2, epochs=1).model_dump_json()
    result = tuning.tuner_fn(SimpleNamespace(**given, transform_graph_path=str(toy / "tft"), working_dir=str(tmp_path)))
    result.tuner.search(**result.fit_kwargs)
    trials = result.tuner.oracle.get_best_trials(2)
    assert len(trials) == 2 and trials[0].score == min(trial.score for trial in trials)
    first = min(trials, key=lambda trial: trial.trial_id).hyperparameters.values
    assert (
        first["train.learning_rate"] == train.learning_rate and first["model.recurrent_units"] == SMALL.recurrent_units
    )
    assert len({trial.hyperparameters.values["train.learning_rate"] for trial in trials}) == 2
    best = result.tuner.get_best_hyperparameters()[0].get_config()
    training.run_fn(SimpleNamespace(**given, hyperparameters=best))
    settings = json.loads((tmp_path / "model" / "assets.extra" / "htr.json").read_text())
    for name, value in best["values"].items():
        section, setting = name.split(".")
        assert settings[section][setting] == value


def search(toy, out, trials):
    given = arguments(toy, out, TRAIN.model_copy(update={"epochs": 1}), WORD)
    given["custom_config"]["tune"] = TuneConfig(trials=trials, epochs=1).model_dump_json()
    result = tuning.tuner_fn(SimpleNamespace(**given, transform_graph_path=str(toy / "tft"), working_dir=str(out)))
    result.tuner.search(**result.fit_kwargs)
    return result.tuner


@pytest.mark.either_stack
@pytest.mark.parametrize("diverging", [{1}, {1, 2, 3, 4}], ids=["one", "all"])
def test_a_trial_that_diverges_is_told_and_left_out(toy, tmp_path, monkeypatch, capsys, diverging):
    count = iter(range(1, 5))

    def run(fitting):
        if (number := next(count)) in diverging:
            raise FloatingPointError("the loss became nan in epoch 1")
        fitting.best_cer = number / 10

    monkeypatch.setattr(Fitting, "run", run)
    if len(diverging) == 4:
        with pytest.raises(FloatingPointError, match="no trial has a finite loss"):
            search(toy, tmp_path, 4)
    else:
        tuner = search(toy, tmp_path, 4)
        assert tuner.oracle.get_best_trials(1)[0].score == 0.2
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("the trial is left out: the loss became nan in epoch 1") == len(diverging)


def test_a_trial_that_fails_for_another_reason_ends_the_search(toy, tmp_path, monkeypatch):
    def run(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Fitting, "run", run)
    with pytest.raises(keras_tuner.errors.FatalError) as caught:
        search(toy, tmp_path, 2)
    assert isinstance(caught.value.__cause__, OSError), "from which `htr run` knows what to say"
    assert root_message(caught.value) == ("OSError", "[Errno 28] No space left on device")
