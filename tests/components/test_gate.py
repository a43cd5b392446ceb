"""The gate's table: every bound, each both ways, through the Evaluator that the pipeline runs."""

import os

import pytest
import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils, proto_utils

from components.evaluator import gate
from components.evaluator.component import EvaluatorExecutor
from components.evaluator.evaluation import read_verdict
from components.evaluator.settings import GateConfig
from components.evaluator.verdict import BASELINE_FILE, Baseline
from pipeline.beam_options import pipeline_options
from pipeline.beam_settings import BeamConfig

LABEL = "abcdefghij"
SAMPLES = 40


class Told(tf.Module):
    """A model that answers with what a feature of the example says."""

    def __init__(self, feature: str):
        super().__init__()
        self._feature = feature

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {self._feature: tf.io.FixedLenFeature([], tf.string)}
        text = tf.io.parse_example(examples, spec)[self._feature]
        return {"text": text[:, None], "confidence": tf.ones_like(text[:, None], tf.float32)}


def artifact(kind, uri, number=1):
    made = kind()
    made.uri, made.id = str(uri), number
    return made


def wrong(edits: int) -> str:
    return "#" * edits + LABEL[edits:]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Examples, and models that read what the examples tell: the candidate 10 % wrong, others better and worse."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "examples" / "Split-eval").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "examples" / "Split-eval" / "data_tfrecord-0.gz"), "GZIP") as writer:
        for number in range(SAMPLES):
            texts = {
                "text": LABEL, "writer": f"w{number % 2}", "length_band": "<=12", "source": "data",
                # 0 or 2 of 10 wrong: a CER of 0.1, with an interval around it; writer w1 has all the errors.
                "candidate": wrong(2 * (number % 2)), "better": wrong(1 - (number % 4 > 0)), "worse": wrong(3),
            }  # fmt: skip
            example = tf.train.Example()
            for name, text in texts.items():
                example.features.feature[name].bytes_list.value.append(text.encode())
            writer.write(example.SerializeToString())
    for name in ("candidate", "better", "worse"):
        model = Told(name)
        tf.saved_model.save(
            model, path_utils.serving_model_dir(str(folder / name)), signatures={"evaluate": model.evaluate}
        )
    return folder


@pytest.fixture
def verdict(place, tmp_path):
    """Evaluates the candidate; returns the verdict, having checked that the blessing says the same."""

    def evaluate(baseline=None, **settings):
        examples = artifact(standard_artifacts.Examples, place / "examples")
        examples.split_names = artifact_utils.encode_split_names(["eval"])
        inputs = {"examples": [examples], "model": [artifact(standard_artifacts.Model, place / "candidate")]}
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
            "eval_config": proto_utils.proto_to_json(gate.eval_config(GateConfig(**settings))),
            "example_splits": '["eval"]', "current_component_id": "Evaluator",
        }  # fmt: skip
        EvaluatorExecutor(context).Do({**inputs, "baseline_model": [found]}, outputs, properties)
        made = read_verdict(str(tmp_path / "evaluation"))
        assert (outputs["blessing"][0].get_int_custom_property("blessed") == 1) == made.blessed
        assert made.compared_with == note
        return made

    return evaluate


def failures(verdict):
    return [(failure.metric, failure.slice, failure.kind) for failure in verdict.failures]


def test_upper_end_of_the_interval_is_bounded(verdict):
    made = verdict(max_cer=0.2)
    assert made.blessed and not made.failures
    low, rate, high = (made.metrics[name] for name in ("cer_low", "cer", "cer_high"))
    assert rate == pytest.approx(0.1) and low < 0.1 < high < 0.14
    assert made.baseline is None and "nothing is there" in str(made.compared_with)


def test_a_rate_within_the_bound_is_not_enough(verdict):
    made = verdict(max_cer=0.11)
    assert not made.blessed and made.metrics["cer"] < 0.11 < made.metrics["cer_high"]
    assert failures(made) == [("cer_high", "all", "bound")]
    assert "the upper end of the CER's interval is 0.1" in str(made.failures[0])


@pytest.mark.parametrize("baseline, allowed, blessed", [
    ("worse", 0.0, True), ("better", 0.01, False), ("better", 0.1, True), ("candidate", 0.0, True),
])  # fmt: skip
def test_against_the_model_in_service(verdict, baseline, allowed, blessed):
    made = verdict(baseline, max_cer=0.2, max_cer_increase=allowed)
    assert made.blessed == blessed
    assert made.baseline["cer"] == pytest.approx({"worse": 0.3, "better": 0.025, "candidate": 0.1}[baseline])
    if not blessed:
        assert failures(made) == [("cer", "all", "change")]
        assert "CER is +0.0750 against version 17 (in service), gate.max_cer_increase allows +0.0100: 0.0650" in str(
            made.failures[0]
        )


@pytest.mark.parametrize("bounds, missed", [
    ({"writer=w1": 0.25, "writer=w0": 0.0}, []),
    ({"writer": 0.25}, []),
    ({"writer=w1": 0.19}, [("cer", "writer = w1", "bound")]),
    ({"writer": 0.19}, [("cer", "writer = w1", "bound")]),
    ({"writer=nobody": 0.9}, [("samples", "writer = nobody", "missing")]),
])  # fmt: skip
def test_slices(verdict, bounds, missed):
    made = verdict(max_cer=0.2, slice_max_cer=bounds)
    assert made.blessed == (not missed) and failures(made) == missed


@pytest.mark.parametrize("baseline", [None, "better"])
def test_bounds_that_are_off_are_named(verdict, baseline):
    made = verdict(baseline, max_cer=None, max_cer_increase=None)
    assert made.blessed and made.off == ["gate.max_cer", "gate.max_cer_increase"]


def test_one_bound_off_leaves_the_other(verdict):
    made = verdict("better", max_cer=None, max_cer_increase=0.01)
    assert made.off == ["gate.max_cer"] and failures(made) == [("cer", "all", "change")]
    assert not made.blessed
