"""The compiled package, executed: every container's command, from the data to the push, with gate and baseline."""

import json
import re
import shutil

import pytest
import yaml
from kubeflow_launcher import Cluster

from components.common.versions import offered
from pipeline.config import load
from pipeline.runners import kubeflow_runner

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]

FAST = ["train.epochs=1", "model.filters=[8,8,8]", "model.recurrent_units=8", "model.recurrent_layers=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, sample_data):
    folder = tmp_path_factory.mktemp("kubeflow")
    shutil.copytree(sample_data, folder / "data")
    (folder / "new").mkdir()
    return folder


@pytest.fixture(scope="module")
def cluster(place):
    # The first Trainer dies after an hour.
    return Cluster(place / "cluster", in_processes=("SchemaGen",), durations={"Trainer": [3600, 3600]})


@pytest.fixture(scope="module")
def start(place, cluster):
    """Compiles and runs; the paths are those that the containers see."""

    def start(*settings):
        config = load(
            overrides=[
                *FAST,
                f"data.paths=[{place / 'data'}]",
                f"push.model_dir={place / 'models' / 'htr'}",
                f"kubeflow.volumes={{models: {place / 'models'}}}",
                "kubeflow.pipeline_root=s3://mlpipeline/htr?endpoint=minio:9000&disableSSL=true",
                f"kubeflow.scratch={place / 'scratch'}",
                f"bulk.folder={place / 'new'}",
                *settings,
            ]
        )
        return cluster.run(kubeflow_runner.as_yaml(kubeflow_runner.compile_pipeline(config)))

    return start


@pytest.fixture(scope="module")
def models(place):
    def numbers():
        return [version.number for version in offered(str(place / "models" / "htr"))]

    return numbers


@pytest.fixture(scope="module")
def add_new_image(place):
    """Copies another image into the folder of images to transcribe."""
    images = iter(sorted((place / "data" / "images").glob("*.png"))[:2])
    return lambda: shutil.copy(next(images), place / "new")


@pytest.fixture(scope="module")
def transcribed(cluster):
    """Numbers of the images that a run has transcribed, and of those that it could not read."""

    def count(run):
        written = cluster.artifacts[run.outputs["BulkInferrer"]["artifacts"]["transcriptions"]]
        counts = json.loads((cluster._object(written["uri"]) / "counts.json").read_text())
        return counts["images"], counts["errors"]

    return count


@pytest.fixture(scope="module")
def first(start, add_new_image):
    add_new_image()
    return start("gate.max_cer=null")


def explain(run):
    return "\n".join(f"--- {name}: {run.logs[name][-3000:]}" for name, state in run.states.items() if state == "Failed")


def test_first_run_pushes_a_version_although_there_is_no_baseline(first, models, transcribed):
    assert set(first.states.values()) == {"Succeeded"}, explain(first)
    assert {name for name, number in first.attempts.items() if number > 1} == {"Trainer"}
    assert len(models()) == 1
    assert "nothing to compare with" in first.logs["Baseline"]
    assert transcribed(first) == (1, 0)


def test_same_run_again_trains_and_pushes_nothing_but_transcribes_new_images(
    first, start, models, add_new_image, transcribed
):
    before = models()
    add_new_image()
    run = start("gate.max_cer=null")
    assert set(run.states.values()) == {"Succeeded", "Cached"}, explain(run)
    # Baseline hands out another artifact each time, and what takes that runs too.
    assert {name for name, state in run.states.items() if state == "Cached"} == {
        "SchemaGen", "HandwritingExampleGen", "StatisticsGen", "ExampleValidator", "Transform", "Trainer",
        "LanguageModel",
    }  # fmt: skip
    # The only version is the candidate itself, which is no baseline.
    assert "nothing to compare with" in run.logs["Baseline"]
    assert models() == before
    # No driver looks at the folder here, so this step must not be cached.
    assert run.states["BulkInferrer"] == "Succeeded" and transcribed(run) == (2, 0)


def test_another_model_is_compared_with_the_one_in_service(first, start, models, cluster):
    (before,) = models()
    run = start("gate.max_cer=null", "gate.max_cer_increase=null", "train.learning_rate=0.001")
    assert set(run.states.values()) <= {"Succeeded", "Cached"}, explain(run)
    assert run.states["Transform"] == "Cached" and run.states["Trainer"] == "Succeeded"
    assert f"version {before} of" in run.logs["Baseline"]
    assert models()[0] == before and len(models()) == 2
    from components.evaluator.tfma_verdict import read_verdict

    evaluation = cluster.artifacts[run.outputs["Evaluator"]["artifacts"]["evaluation"]]
    verdict = read_verdict(str(cluster._object(evaluation["uri"])))
    assert verdict.baseline is not None and 0 <= verdict.baseline["cer"] <= 9


def test_failing_gate_fails_its_task_and_pushes_nothing(first, start, models):
    before = models()
    run = start("gate.max_cer=0.0001")
    assert run.states["Evaluator"] == "Succeeded" and run.states["Gate"] == "Failed"
    assert run.states["ServingCheck"] == run.states["Pusher"] == "Omitted"
    reason = r"The model is not blessed: .*gate.max_cer allows 0.0001: \d\.\d+ too much.* Nothing is pushed"
    assert re.search(f"^{reason}", run.logs["Gate"], re.MULTILINE), "and not in a traceback alone"
    assert models() == before


def test_replaced_images_are_noticed(first, start, place):
    images = sorted((place / "data" / "images").glob("*.png"))
    for image in images[: len(images) // 2]:
        image.write_bytes(b"no image")
    # The settings are those of the first run, which an unnoticed change would take from the cache.
    run = start("gate.max_cer=null")
    assert run.states["HandwritingExampleGen"] == "Failed" and run.states["Trainer"] == "Omitted"
    assert "not_an_image" in run.logs["HandwritingExampleGen"]
    assert "data.max_rejected allows" in run.logs["HandwritingExampleGen"]


def test_no_address_of_a_pod_stays_in_the_metadata(first, cluster):
    text = yaml.safe_dump(cluster.artifacts)
    assert "s3://mlpipeline/htr" in text and str(cluster.folder / "pods") not in text
