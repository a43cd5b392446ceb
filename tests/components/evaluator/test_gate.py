"""The gate's table: every bound, each both ways, through the Evaluator that the pipeline runs."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tfx.components.evaluator import constants
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils, proto_utils

from components.common.artifacts import is_blessed
from components.evaluator import kept_texts
from components.evaluator.bounds import eval_config
from components.evaluator.component import EvaluatorExecutor
from components.evaluator.settings import GateConfig
from components.evaluator.tfma_verdict import read_verdict
from components.evaluator.verdict import BASELINE_FILE, GATE_BOUNDS, Baseline, Failure
from htr_client import ngrams
from htr_client.decoding import Alphabet
from htr_client.language import LanguageModel
from pipeline.beam.options import pipeline_options
from pipeline.beam.settings import BeamConfig
from serving.version_directory import SETTINGS_FILE
from tests.conftest import encode

LABEL = "abcdefghij"
SAMPLES, FEW = 40, 3


class Told(tf.Module):
    """A model for which an image is lines of texts, of which it reads one. In place of "?" it sees a "#", probably."""

    def __init__(self, line: int, language_model: bytes | None = None):
        super().__init__()
        alphabet = tf.constant(list(LABEL + "#"))
        query = tf.TensorSpec([None], tf.string, name="query")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def recognise(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            texts = tf.strings.split(image_bytes, "\n").to_tensor()[:, line]
            read = tf.strings.unicode_split(texts, "UTF-8").to_tensor(shape=[None, len(LABEL)])[:, :, tf.newaxis]
            doubt = 0.4 * tf.eye(len(LABEL), len(LABEL) + 1) + 0.6 * tf.cast(alphabet == "#", tf.float32)
            sees = tf.where(read == "?", doubt, tf.cast(read == alphabet, tf.float32))
            blanks = tf.one_hot(tf.fill(tf.shape(read)[:2], len(LABEL) + 1), len(LABEL) + 2)
            frames = tf.stack([tf.pad(sees, [[0, 0], [0, 0], [0, 1]]), blanks], axis=2)
            probabilities = tf.reshape(frames, [-1, 2 * len(LABEL), len(LABEL) + 2])
            return {"log_probs": tf.math.log(probabilities + 1e-6), "frames": tf.fill(tf.shape(texts), 2 * len(LABEL))}

        @tf.function(input_signature=[query])
        def tell_alphabet(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"characters": tf.tile(alphabet[tf.newaxis], [tf.size(query), 1])}

        @tf.function(input_signature=[query])
        def tell_language_model(query: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"model_bytes": tf.fill(tf.shape(query), language_model)}

        self.functions = {"serving_default": recognise, "alphabet": tell_alphabet}
        if language_model is not None:
            self.functions["language_model"] = tell_language_model


def artifact(kind, uri, number=1):
    made = kind()
    made.uri, made.id = str(uri), number
    return made


def levels(example: tf.train.Example, paper: float, ink: float) -> None:
    """Notes grey levels of an image."""
    for name, level in (("paper_level", paper), ("ink_level", ink)):
        example.features.feature[name].float_list.value[:] = [level]


def wrong(edits: int) -> str:
    return "#" * edits + LABEL[edits:]


READS = ("candidate", "better", "worse", "unsure")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Examples, and models that read what the images tell: the candidate 10 % wrong, others better and worse.

    The unsure one has a language model, with which it reads everything right.
    """
    folder = tmp_path_factory.mktemp("gate")
    with contextlib.ExitStack() as stack:
        writers = []
        for name in ("examples", "few", "blank"):
            (folder / name / "Split-eval").mkdir(parents=True)
            path = str(folder / name / "Split-eval" / "data_tfrecord-0.gz")
            writers.append(stack.enter_context(tf.io.TFRecordWriter(path, "GZIP")))
        for number in range(SAMPLES):
            # 0 or 2 of 10 wrong: a CER of 0.1, with an interval around it; writer w1, folder 007, has all the errors.
            reads = [wrong(2 * (number % 2)), wrong(1 - (number % 4 > 0)), wrong(3), "??" + LABEL[2:]]
            features = {
                "text": LABEL, "writer": f"w{number % 2}", "length_band": "<=12", "source": ("7", "007")[number % 2],
                "image": "\n".join(reads), "id": f"{number}.png",
            }  # fmt: skip
            example = tf.train.Example()
            for name, text in features.items():
                example.features.feature[name].bytes_list.value.append(text.encode())
            levels(example, 255, 0)
            for writer in writers[: 1 + 2 * (number < FEW)]:
                writer.write(example.SerializeToString())
        example.features.feature["image"].bytes_list.value[0] = encode(np.full((64, 200), 250, np.uint8))
        example.features.feature["id"].bytes_list.value[0] = b"white.png"
        levels(example, 250, 250)
        writers[2].write(example.SerializeToString())
    learnt = LanguageModel(ngrams.count([LABEL] * 9, Alphabet(LABEL + "#"), 3), 0.3, 0.45).to_bytes()
    for line, name in enumerate(READS):
        model = Told(line, learnt if name == "unsure" else None)
        directory = Path(path_utils.serving_model_dir(str(folder / name)))
        tf.saved_model.save(model, str(directory), signatures=model.functions)
        (directory / "assets.extra").mkdir()
        (directory / SETTINGS_FILE).write_text('{"transform": {"height": 32, "width": 128}}')
    kept = shutil.copytree(folder / "candidate", folder / "kept")
    start = {"start": {"name": "models/17", "base_model": False}, "training": {"best_epoch": 0}}
    settings = {"transform": {"height": 32, "width": 128}, **start}
    Path(path_utils.serving_model_dir(str(kept)), SETTINGS_FILE).write_text(json.dumps(settings))
    return folder


@pytest.fixture
def verdict(place, tmp_path):
    """Evaluates the candidate; returns the verdict, having checked that the blessing says the same."""

    def evaluate(baseline=None, candidate="candidate", examples="examples", **settings):
        examples = artifact(standard_artifacts.Examples, place / examples)
        examples.split_names = artifact_utils.encode_split_names(["eval"])
        inputs = {"examples": [examples], "model": [artifact(standard_artifacts.Model, place / candidate)]}
        found = artifact(standard_artifacts.Model, place / baseline if baseline else tmp_path, 2)
        note = Baseline("in_service", 17, "models/17") if baseline else Baseline("none", reason="nothing is there")
        with open(os.path.join(found.uri, BASELINE_FILE), "w") as file:
            file.write(note.as_json())
        outputs = {
            "evaluation": [artifact(standard_artifacts.ModelEvaluation, tmp_path / "evaluation")],
            "blessing": [artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing")],
        }
        context = EvaluatorExecutor.Context(
            beam_pipeline_args=pipeline_options(BeamConfig()), tmp_dir=str(tmp_path / "tmp"), unique_id="1"
        )
        properties = {
            "eval_config": proto_utils.proto_to_json(eval_config(GateConfig(**settings))),
            "example_splits": '["eval"]', "current_component_id": "Evaluator",
        }  # fmt: skip
        EvaluatorExecutor(context).Do({**inputs, "baseline_model": [found]}, outputs, properties)
        made = read_verdict(str(tmp_path / "evaluation"))
        assert is_blessed(outputs["blessing"][0]) == made.blessed
        marks = [constants.BLESSED_FILE_NAME if made.blessed else constants.NOT_BLESSED_FILE_NAME]  # as Pusher looks
        assert os.listdir(tmp_path / "blessing") == marks
        assert made.compared_with == note
        return made

    return evaluate


def failures(verdict):
    return [(failure.metric, failure.slice, failure.kind) for failure in verdict.failures]


def test_the_version_in_service_is_no_new_model(verdict):
    made = verdict("candidate", "kept", max_cer=0.2)
    assert not made.blessed and failures(made) == [("cer", "all", "unchanged")]
    assert "better than version 17, which the training started from" in str(made.failures[0])
    assert made.failures[0].in_service == "version 17"


def test_where_the_base_model_stayed_as_it_was_the_refusal_says_which_model_serves():
    """A base model serves without a run only where no version is in service."""
    alone, beside = (
        str(Failure("cer", "all", 0.0, 0.0, "unchanged", "the base model", version)) for version in ("", "version 6")
    )
    assert "so, but for its language model, this would be that model again, which serves without a run" in alone
    assert "that model again, and version 6 stays in service (htr read --base PRESET takes the base model)" in beside


def test_upper_end_of_the_interval_is_bounded(verdict):
    made = verdict(max_cer=0.2)
    assert made.blessed and not made.failures
    low, rate, high = (made.metrics[name] for name in ("cer_low", "cer", "cer_high"))
    assert rate == pytest.approx(0.1) and low < 0.1 < high < 0.2
    assert made.baseline is None and "nothing is there" in str(made.compared_with)


def test_a_rate_within_the_bound_is_not_enough(verdict):
    made = verdict(max_cer=0.11)
    assert not made.blessed and made.metrics["cer"] < 0.11 < made.metrics["cer_high"]
    assert failures(made) == [("cer_high", "all", "bound")]
    assert "the upper end of the CER's interval is 0.1" in str(made.failures[0])


@pytest.mark.parametrize(
    "examples, bound, blessed", [("few", 0.1, False), ("few", 0.65, True), ("examples", 0.1, True)]
)
def test_three_images_all_right_are_too_few_for_a_bound(verdict, examples, bound, blessed):
    made = verdict(None, "unsure", examples, max_cer=bound)
    assert made.metrics["cer"] == 0.0 and made.blessed == blessed
    assert failures(made) == ([] if blessed else [("cer_high", "all", "bound")])


def test_an_image_on_which_nothing_is_written_has_no_text_as_for_clients(verdict, tmp_path):
    verdict("better", "unsure", "blank")
    rows = kept_texts.read(str(tmp_path / "evaluation" / kept_texts.FOLDER))
    white = rows.pop("white.png")
    for model in (kept_texts.CANDIDATE, kept_texts.BASELINE):
        assert list(white[model].values()) == [["", 0.0], ["", 0.0]]
        assert len(rows) == FEW and all(text for row in rows.values() for text, _ in row[model].values())


@pytest.mark.parametrize("baseline, allowed, blessed", [
    ("worse", 0.0, True), ("better", 0.01, False), ("better", 0.075, True), ("candidate", 0.0, True),
])  # fmt: skip
def test_against_the_model_in_service(verdict, baseline, allowed, blessed):
    made = verdict(baseline, max_cer=0.2, max_cer_increase=allowed)
    assert made.blessed == blessed
    assert made.baseline["cer"] == pytest.approx({"worse": 0.3, "better": 0.025, "candidate": 0.1}[baseline])
    if not blessed:
        assert failures(made) == [("cer", "all", "change")] and made.failures[0].bound == allowed
        assert "CER is +0.0750 against version 17 (in service), gate.max_cer_increase allows +0.0100: 0.0650" in str(
            made.failures[0]
        )


def test_a_message_has_the_digits_that_tell_a_value_from_its_bound():
    high = Failure("cer_high", "all", 0.10003, 0.1, "bound")
    assert str(high).endswith("is 0.10003, gate.max_cer allows 0.1: 0.00003 too much")
    worse = Failure("cer", "all", 0.005002, 0.005, "change", "version 17")
    assert "CER is +0.005002 against" in str(worse) and "allows +0.005000: 0.000002 too much" in str(worse)


def test_a_failure_is_told_in_the_words_of_its_own_bound():
    for bound in GATE_BOUNDS:
        told = str(Failure(bound.metric, "writer = 7" if bound.by_slice else "all", 0.5, 0.25, bound.kind))
        assert told.startswith(f"{bound.what} ") and f", {bound.setting} allows " in told
    other = str(Failure("wer_high", "all", 0.5, 0.25, "bound"))  # of another release
    assert other == "wer_high is 0.5000, the gate allows 0.25: 0.2500 too much"


def test_what_is_bounded_is_measured():
    asked = {
        metric.config: len(metric.per_slice_thresholds)
        for spec in eval_config(GateConfig(slice_max_cer={"writer": 0.2, "writer=7": 0.1})).metrics_specs
        for metric in spec.metrics
    }
    bounded = {json.loads(config)["name"]: count for config, count in asked.items() if count}
    assert bounded == {"cer_high": 1, "cer": 3} and bounded.keys() == {bound.metric for bound in GATE_BOUNDS}


# Several bounds in one evaluation, as far as one does not hide another.
@pytest.mark.parametrize("bounds, missed", [
    ({"writer=w1": 0.25, "writer=w0": 0.0, "source=7": 0.0}, []),
    ({"writer": 0.25}, []),
    ({"writer": 0.19}, [("cer", "writer = w1", "bound")]),
    (
        {"writer=w1": 0.19, "writer=nobody": 0.9, "source=007": 0.19, "source=7.0": 0.9},
        [("cer", "source = 007", "bound"), ("cer", "writer = w1", "bound"),
         ("samples", "source = 7.0", "missing"), ("samples", "writer = nobody", "missing")],
    ),
])  # fmt: skip
def test_slices(verdict, bounds, missed):
    made = verdict(max_cer=0.2, slice_max_cer=bounds)
    assert made.blessed == (not missed) and sorted(failures(made)) == missed
    values = {"writer = w0", "writer = w1", "source = 7", "source = 007", "length_band = <=12"}
    assert values == set(made.slices) and made.slices["source = 7"]["cer"] == 0.0


@pytest.mark.parametrize("baseline", [None, "better"])
def test_bounds_that_are_off_keep_nothing_out(verdict, baseline):
    made = verdict(baseline, max_cer=None, max_cer_increase=None)
    assert made.blessed and not made.failures


def test_one_bound_off_leaves_the_other(verdict):
    made = verdict("better", max_cer=None, max_cer_increase=0.01)
    assert failures(made) == [("cer", "all", "change")] and not made.blessed


@pytest.mark.parametrize("decoder, cer, blessed", [("default", 0.0, True), ("best_path", 0.2, False)])
def test_the_gate_evaluates_what_clients_get_or_best_path(verdict, decoder, cer, blessed):
    made = verdict("better", "unsure", max_cer=None, max_cer_increase=0.0, decoder=decoder)
    assert made.metrics["cer"] == pytest.approx(cer) and made.blessed == blessed
    assert (made.metrics["cer_default"], made.metrics["cer_best_path"]) == pytest.approx((0.0, 0.2))
    # The baseline is of an earlier release, which knew no language models.
    assert [made.baseline[name] for name in ("cer", "cer_default", "cer_best_path")] == [pytest.approx(0.025)] * 3


def test_a_baseline_is_read_with_its_own_language_model(verdict, tmp_path):
    made = verdict("unsure", max_cer=None, max_cer_increase=0.0)
    assert (made.baseline["cer"], made.baseline["cer_best_path"]) == pytest.approx((0.0, 0.2))
    assert failures(made) == [("cer", "all", "change")]
    kept = kept_texts.read(str(tmp_path / "evaluation" / kept_texts.FOLDER))  # for the report
    assert kept.keys() == {f"{number}.png" for number in range(SAMPLES)}
    read = {name: [row[0] for row in kept["1.png"][name].values()] for name in ("candidate", "baseline")}
    assert read == {"candidate": [wrong(2)] * 2, "baseline": [LABEL, wrong(2)]}
    assert 0 < kept["1.png"]["candidate"]["best_path"][1] <= 1
