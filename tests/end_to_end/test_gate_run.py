"""The gate in whole runs: it compares with what is in service, and refuses what is worse."""

import json
import os

import pytest
import tensorflow as tf

from components.base_model import packing
from components.common.in_service import metrics
from components.common.versions import list_versions, offered
from components.example_gen import dataset
from components.example_gen.settings import DataConfig
from components.pusher import publishing
from components.report import summary
from components.transform.settings import TransformConfig
from pipeline import cli
from serving.rollout.moving import Rollout
from serving.version_directory import SETTINGS_FILE
from tests.end_to_end import conftest

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]
ANY_INCREASE = "gate.max_cer_increase=null"


def run(data, workspace, capture, *settings):
    """Without a language model, which costs a network that reads nothing most and is not what this is about."""
    return conftest.run(data, workspace, capture, "language.enabled=false", *settings)


class Memory(tf.Module):
    """A model with the signatures of a trained one that knows the labels of some images by heart."""

    def __init__(self, known: dict[bytes, str], alphabet: list[str]):
        super().__init__()
        texts = tf.constant(list(known.values()))
        self._texts = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(list(known), texts), "")
        classes = tf.range(len(alphabet), dtype=tf.int32)
        self._classes = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(alphabet, classes), -1)
        self._alphabet, self._blank = tf.constant(alphabet), len(alphabet)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        characters = tf.strings.unicode_split(self._texts.lookup(image_bytes), "UTF-8")
        classes = tf.ragged.map_flat_values(self._classes.lookup, characters).to_tensor(self._blank)
        blanks = tf.fill(tf.shape(classes), self._blank)
        path = tf.reshape(tf.stack([classes, blanks], axis=2), [tf.shape(classes)[0], 2 * tf.shape(classes)[1]])
        frames = tf.fill([tf.shape(path)[0]], tf.shape(path)[1])
        return {"log_probs": tf.math.log(tf.one_hot(path, self._blank + 1) + 1e-6), "frames": frames}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="query")])
    def alphabet(self, query: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"characters": tf.repeat(self._alphabet[None], tf.shape(query)[0], axis=0)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.io.parse_example(examples, {"image": tf.io.FixedLenFeature([], tf.string)})["image"]
        text = self._texts.lookup(images)[:, None]
        return {"text": text, "confidence": tf.ones_like(text, tf.float32)}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


def served(data, workspace, capfd):
    """The oldest version in service: that of the tests before, or, where this one runs alone, of a first run."""
    model_dir = str(workspace / "serving_model" / "htr")
    if not os.path.isdir(model_dir) or not offered(model_dir):
        assert run(data, workspace, capfd).code == 0
    return offered(model_dir)[0]


def test_the_baseline_is_what_is_in_service(data, workspace, capfd):
    """A in service, B pushed with a raised bound, `htr rollback`: the next run is compared with A."""
    model_dir = str(workspace / "serving_model" / "htr")
    code, first, text, *_ = run(data, workspace, capfd)
    assert code == 0 and first["baseline_version"] is None and first["off"] == ["gate.max_cer"]
    assert "nothing to compare with: no version is in service" in text and "gate.max_cer is off" in text
    code, second, text, *_ = run(data, workspace, capfd, "train.seed=2", ANY_INCREASE)
    assert code == 0 and second["baseline_version"] == first["version"] != second["version"]
    assert cli.main(["rollback", "--workspace", str(workspace)]) == 0
    # What a person has withdrawn does not come back by itself.
    before = list_versions(model_dir)
    code, again, text, states, _ = run(data, workspace, capfd, "train.seed=2", ANY_INCREASE)
    assert code == 0 and again == {**second, "version": None, "withdrawn_version": second["version"]}
    assert states["Pusher"] == "COMPLETE" and list_versions(model_dir) == before
    why = f"this model is version {second['version']}, which `htr rollback` has withdrawn; `htr restore"
    assert f"  Not pushed: {why}" in text and f"Version    none: {why}" in text
    assert f"Not pushed: {why}" in summary.read(str(workspace), "htr").page()
    assert cli.main(["runs", "--workspace", str(workspace)]) == 0
    newest, pushing = capfd.readouterr().out.splitlines()[1:3]
    assert all(f"  {second['version']} (withdrawn)  " in row for row in (newest, pushing))
    assert run(data, workspace, capfd, "train.seed=2", ANY_INCREASE).states["Pusher"] == "CACHED"

    code, third, text, *_ = run(data, workspace, capfd, "train.seed=3", ANY_INCREASE)
    assert code == 0 and third["baseline_version"] == first["version"]
    assert f"version {first['version']} of {model_dir}, in service" in text
    made = summary.read(str(workspace), "htr")
    assert f"version {first['version']} (in service)" in made.page()
    beside = metrics(model_dir, third["version"])
    assert beside["compared_with"]["version"] == first["version"]

    # Repeated, though the model is now in service itself: the same verdict, and no work.
    code, again, *_ = run(data, workspace, capfd, "train.seed=3", ANY_INCREASE)
    assert code == 0 and again == third
    states = {step.name: step.state for step in summary.read(str(workspace), "htr").steps}
    assert {name for name, state in states.items() if state != "CACHED"} == {"PreviousStatistics"}

    # Labels say what is in service, whatever is newest. The withdrawn version comes back before it is promoted.
    assert cli.main(["promote", str(second["version"]), "--label=stable", "--workspace", str(workspace)]) == cli.USAGE
    assert f"htr restore {second['version']}" in capfd.readouterr().err
    assert cli.main(["restore", str(second["version"]), "--workspace", str(workspace)]) == 0
    Rollout(model_dir, "htr").promote(second["version"], "stable")
    # The model under the label is not pushed again, though a newer version follows it.
    before = offered(model_dir)
    code, again, *_ = run(data, workspace, capfd, "train.seed=2", ANY_INCREASE)
    assert code == 0 and again["version"] == second["version"] and offered(model_dir) == before
    code, fourth, *_ = run(data, workspace, capfd, "train.seed=4", ANY_INCREASE)
    assert code == 0 and fourth["baseline_version"] == second["version"] < third["version"]


def test_a_model_that_is_worse_than_the_one_in_service_is_refused(data, workspace, capfd, tmp_path):
    """With any bound on the CER itself: the one in service knows all labels by heart."""
    model_dir = str(workspace / "serving_model" / "htr")
    checked = dataset.examine_all(DataConfig(paths=[str(data)]), TransformConfig())
    known = {sample.image: sample.text for sample in checked if isinstance(sample, dataset.Sample)}
    earlier = served(data, workspace, capfd)
    with open(os.path.join(earlier.path, SETTINGS_FILE), encoding="utf-8") as file:
        settings = json.load(file)
    memory, source = Memory(known, sorted(set("".join(known.values())))), str(tmp_path / "memory")
    signatures = {name: getattr(memory, name) for name in ("serving_default", "alphabet", "evaluate")}
    tf.saved_model.save(memory, source, signatures=signatures)
    os.makedirs(os.path.dirname(os.path.join(source, SETTINGS_FILE)), exist_ok=True)
    with open(os.path.join(source, SETTINGS_FILE), "w", encoding="utf-8") as file:
        json.dump(settings, file)
    best = publishing.push(source, model_dir, keep=9)
    Rollout(model_dir, "htr").promote(best, "stable")
    before = [version.number for version in list_versions(model_dir)]

    code, outcome, text, *_ = run(data, workspace, capfd, "train.seed=4")
    assert code == cli.NOT_BLESSED and not outcome["blessed"] and outcome["version"] is None
    assert outcome["baseline_version"] == best
    assert f"against version {best} (in service), gate.max_cer_increase allows +0.0050" in text
    assert [version.number for version in list_versions(model_dir)] == before
    assert "Not pushed: the model is not blessed" in text and "Pushing the model" not in text
    assert "Checking the model in a server" not in text
    assert 1 <= len(outcome["next_steps"]) <= 3 and all(step in text for step in outcome["next_steps"])

    # The documented way past the comparison is recorded.
    code, outcome, text, *_ = run(
        data, workspace, capfd, "train.seed=4", "gate.baseline=none", "gate.baseline_reason=another alphabet"
    )
    assert code == 0 and outcome["baseline_version"] is None
    made = summary.read(str(workspace), "htr")
    card = (offered(model_dir)[-1].path + ".model_card.md", made.report["verdict"])
    with open(card[0], encoding="utf-8") as file:
        assert "another alphabet" in file.read()
    assert made.verdict.compared_with.reason == "another alphabet" and "another alphabet" in made.page()


def test_without_a_model_in_service_a_warm_start_is_compared_with_its_base(data, workspace, capfd, tmp_path):
    base = served(data, workspace, capfd)
    elsewhere = f"push.model_dir={tmp_path / 'models'}"
    settings = ("train.seed=4", f"train.warm_start={base.path}", elsewhere, ANY_INCREASE)
    code, outcome, text, *_ = run(data, workspace, capfd, *settings)
    assert code == 0 and outcome["baseline_version"] is None
    assert outcome["baseline"] == f"the version that the training started from ({base.path})"
    assert outcome["baseline"] in text
    verdict = summary.read(str(workspace), "htr").verdict
    assert verdict.compared_with.kind == "warm_start" and verdict.baseline is not None
    assert run(data, workspace, capfd, *settings).outcome == outcome


def test_a_training_that_brings_nothing_is_refused_for_that_reason(data, workspace, capfd, tmp_path, monkeypatch):
    made = served(data, workspace, capfd)
    monkeypatch.setattr(packing, "FOLDER", tmp_path / "files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packing.pack(made.path, "word")
    elsewhere = f"push.model_dir={tmp_path / 'models'}"
    code, outcome, text, *_ = run(data, workspace, capfd, "train.learning_rate=100", elsewhere)
    assert code == cli.NOT_BLESSED and not outcome["blessed"] and outcome["version"] is None
    assert "starting from the base model for transform.preset=word" in text
    assert outcome["baseline"] == "the base model that the training started from"
    assert "no epoch transcribed the validation images better than the base model" in text
    assert not os.path.exists(tmp_path / "models") or not list_versions(str(tmp_path / "models"))
    page = summary.read(str(workspace), "htr").page()
    assert "no epoch transcribed the validation images better than the base model" in page
