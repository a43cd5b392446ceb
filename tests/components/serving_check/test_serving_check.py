"""The serving check: a model is blessed for serving when a model server has answered its warm-up requests."""

import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tfx.types import standard_artifacts
from tfx.utils import json_utils, path_utils

from components.serving_check import early
from components.serving_check.component import Executor, NotServable, check, what_is_wrong
from serving.version_directory import WARMUP_FILE

pytestmark = pytest.mark.slow


class Toy(tf.Module):
    """Answers with the length of each text and the half of it, NaN for an empty one, a number of times."""

    def __init__(self, answers: int):
        super().__init__()
        self.left = tf.Variable(answers)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def lengths(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        left = self.left.assign_sub(1)
        with tf.control_dependencies([tf.debugging.assert_non_negative(left, "no answer is left")]):
            lengths = tf.strings.length(image_bytes)
            halves = tf.where(lengths > 0, tf.cast(lengths, tf.float32) / 2, np.nan)
            return {"lengths": lengths, "halves": halves}


def export(folder, *texts: bytes, answers: int = 1000) -> str:
    """A model with a warm-up request for each text; returns the artifact's address."""
    toy, path = Toy(answers), path_utils.serving_model_dir(str(folder))
    tf.saved_model.save(toy, path, signatures={"serving_default": toy.lengths})
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "htr", "serving_default"
    (folder / "Format-Serving" / WARMUP_FILE).parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(f"{path}/{WARMUP_FILE}") as writer:
        for text in texts:
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([text]))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
    return str(folder)


def infra_blessing(uri: str, blessed: int) -> int:
    """Runs the step; returns what it says of the model."""
    model, verdict, made = (
        standard_artifacts.Model(),
        standard_artifacts.ModelBlessing(),
        standard_artifacts.InfraBlessing(),
    )
    model.uri = uri
    verdict.set_int_custom_property("blessed", blessed)
    properties = {"server_command": json_utils.dumps([]), "name": "htr"}
    Executor().Do({"model": [model], "model_blessing": [verdict]}, {"blessing": [made]}, properties)
    return made.get_int_custom_property("blessed")


def test_a_model_that_answers_is_blessed(tmp_path):
    uri = export(tmp_path / "model", b"abc", b"ab")
    assert infra_blessing(uri, blessed=1) == 1


def test_a_model_that_loads_and_cannot_answer_is_refused(tmp_path):
    """Its warm-up takes the only answer that it has."""
    uri = export(tmp_path / "model", b"abc", answers=1)
    with pytest.raises(NotServable, match=r"serving_default: INVALID_ARGUMENT: .*no answer is left"):
        infra_blessing(uri, blessed=1)


def test_a_model_that_answers_with_no_number_is_refused(tmp_path):
    with pytest.raises(NotServable, match="serving_default: the output halves holds numbers that are not finite"):
        infra_blessing(export(tmp_path / "model", b"abc", b""), blessed=1)


def test_an_answer_has_a_row_for_each_input():
    def answer(**outputs):
        made = predict_pb2.PredictResponse()
        for name, values in outputs.items():
            made.outputs[name].CopyFrom(tf.make_tensor_proto(values))
        return what_is_wrong(request, made)

    request = predict_pb2.PredictRequest(inputs={"image_bytes": tf.make_tensor_proto([b"abc", b"ab"])})
    assert answer(text=[b"a", b"b"], log_probs=tf.zeros([2, 3, 4], tf.bfloat16)) == ""
    assert answer(text=[b"a", b"b"], log_probs=[0.5]) == "the output log_probs has the shape [1] for 2 inputs"
    assert answer(text=b"a") == "the output text has the shape [] for 2 inputs"
    assert answer() == "the answer has no outputs"


def test_a_model_that_nobody_can_ask_is_refused(tmp_path):
    with pytest.raises(NotServable, match="holds no requests"):
        infra_blessing(export(tmp_path / "model"), blessed=1)


def test_a_model_that_does_not_load_is_refused(tmp_path):
    uri = export(tmp_path / "model", b"abc")
    path = path_utils.serving_model_path(uri)
    with open(f"{path}/saved_model.pb", "r+b") as file:
        file.truncate(100)
    with pytest.raises(NotServable, match=r"could not load the model|ended with code"):
        check(path, "htr", [])


def test_a_model_that_the_gate_refused_is_not_tried(tmp_path):
    assert infra_blessing(str(tmp_path / "nowhere"), blessed=0) == 0


@pytest.fixture
def waiting():
    """The process that waits for a model."""
    early.begin()
    yield early._waiting.process
    early.end()


def test_a_server_that_was_started_early_serves_the_model(tmp_path, waiting):
    assert waiting.poll() is None
    assert infra_blessing(export(tmp_path / "model", b"abc"), blessed=1) == 1
    assert waiting.wait(20) == 0  # it was this one, which has drained
    assert infra_blessing(export(tmp_path / "next", b"abc"), blessed=1) == 1  # by a server of its own


def test_a_server_that_was_started_early_and_has_died_is_replaced(tmp_path, waiting):
    waiting.kill()
    waiting.wait()
    assert infra_blessing(export(tmp_path / "model", b"abc"), blessed=1) == 1


def test_a_server_that_was_started_early_refuses_a_bad_model_and_says_why(tmp_path, waiting):
    with pytest.raises(NotServable, match=r"no answer is left[\s\S]*last words[\s\S]*loaded"):
        infra_blessing(export(tmp_path / "model", b"abc", answers=1), blessed=1)


def test_a_server_of_another_command_is_not_the_one_that_was_started_early(tmp_path, waiting):
    path = path_utils.serving_model_path(export(tmp_path / "model", b"abc"))
    assert check(path, "htr", [sys.executable, "-m", "serving.server"]) == 1
    assert waiting.poll() is None
    early.end()
    assert waiting.poll() is not None
