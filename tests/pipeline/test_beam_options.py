"""Beam options: what engines are told, what is refused, what reaches workers; and results that do not depend on it."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf
from apache_beam.options import pipeline_options as beam
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms.environments import DockerEnvironment, ExternalEnvironment
from tfx.utils.dependency_utils import make_beam_dependency_flags

from benchmarks.beam import example_gen
from components.common.settings import ConfigError
from pipeline.beam.options import check, for_pipeline, pipeline_options
from pipeline.beam.settings import BeamConfig

ROOT = Path(__file__).parents[2]
DASK = {"runner": "dask", "address": "tcp://scheduler:8786"}
FLINK = {"runner": "flink", "address": "flink:8081", "workers": 4}
SPARK = {"runner": "spark", "address": "spark://master:7077"}
DATAFLOW = {
    "runner": "dataflow", "project": "p", "region": "europe-west1", "temp_location": "gs://b/tmp", "workers": 20
}  # fmt: skip


def parsed(**settings):
    """The options as Beam understands them; all of them must be known to it."""
    options = beam.PipelineOptions(pipeline_options(BeamConfig(**settings)))
    assert options.get_all_options(retain_unknown_options=True).keys() == options.get_all_options().keys()
    return options


def test_local_workers_are_processes():
    one, four = (parsed(workers=n).view_as(beam.DirectOptions) for n in (1, 4))
    assert one.direct_running_mode == "in_memory"
    assert (four.direct_running_mode, four.direct_num_workers) == ("multi_processing", 4)
    assert one.view_as(beam.StandardOptions).runner == "FnApiRunner"


def test_flink_and_spark_get_their_address_and_the_workers_environment():
    flink = parsed(**FLINK, worker_image="htr-pipeline:1")
    assert flink.view_as(beam.StandardOptions).runner == "FlinkRunner"
    assert flink.view_as(beam.FlinkRunnerOptions).flink_master == "flink:8081"
    assert flink.get_all_options()["parallelism"] == 4
    assert DockerEnvironment.from_options(flink.view_as(beam.PortableOptions)).container_image == "htr-pipeline:1"
    spark = parsed(**SPARK)
    assert spark.view_as(beam.SparkRunnerOptions).spark_master_url == "spark://master:7077"
    assert ExternalEnvironment.from_options(spark.view_as(beam.PortableOptions)).url == "localhost:50000"


@pytest.mark.parametrize("settings", [{}, DASK, FLINK, SPARK, {**FLINK, "worker_image": "image"}])
def test_tfx_packs_no_sources_of_its_own_for_workers(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = pipeline_options(BeamConfig(**settings))
    assert make_beam_dependency_flags(options) == options
    assert not list(tmp_path.iterdir())


def test_dataflow_gets_project_and_image():
    options = parsed(**DATAFLOW, worker_image="htr-pipeline:1")
    cloud, workers = options.view_as(beam.GoogleCloudOptions), options.view_as(beam.WorkerOptions)
    assert (cloud.project, cloud.region, cloud.temp_location) == ("p", "europe-west1", "gs://b/tmp")
    assert (workers.max_num_workers, workers.sdk_container_image) == (20, "htr-pipeline:1")


def test_own_options_win():
    assert parsed(**FLINK, args=["--parallelism=9"]).get_all_options()["parallelism"] == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runner": "flink"}, "beam.runner=flink needs beam.address: Flink's host:port"),
        ({"runner": "spark"}, "needs beam.address"),
        ({"runner": "dask"}, "needs beam.address"),
        ({**DATAFLOW, "region": None}, "beam.runner=dataflow needs beam.region"),
    ],
)
def test_missing_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        pipeline_options(BeamConfig(**settings))


@pytest.mark.parametrize(
    ("engine", "unused"),
    [
        ({}, {"address": "flink:8081"}),
        ({"workers": 4}, {"setup_file": "/setup.py"}),
        (DASK, {"workers": 4}),
        (DASK, {"worker_image": "image"}),
        (DASK, {"extra_packages": ["/client.tar.gz"]}),
        (SPARK, {"workers": 8}),
        (FLINK, {"region": "europe-west1"}),
        (DATAFLOW, {"address": "flink:8081"}),
    ],
)
def test_settings_that_an_engine_has_no_use_for_are_refused(engine, unused):
    assert pipeline_options(BeamConfig(**engine))
    (name,), runner = unused, engine.get("runner", "local")
    with pytest.raises(ConfigError, match=f"beam.{name}: beam.runner={runner} has no use for it"):
        pipeline_options(BeamConfig(**engine, **unused))


def test_options_that_beam_does_not_know_are_refused():
    check(BeamConfig(args=["--direct_num_workers=2"], step_args={"Transform": ["--parallelism=2"]}))
    with pytest.raises(ConfigError, match=r"beam\.args: Apache Beam knows no option --direct_num_worker"):
        check(BeamConfig(args=["--direct_num_worker=2"]))
    with pytest.raises(ConfigError, match=r"beam\.step_args\.Transform: .* --nonsense"):
        check(BeamConfig(step_args={"Transform": ["--nonsense=2"]}))
    with pytest.raises(ConfigError, match=r"beam\.args: argument --direct_running_mode: invalid choice: 'bogus'"):
        check(BeamConfig(args=["--direct_running_mode=bogus"]))
    for args in (["foo"], ["--direct_num_workers=2", "foo"], ["--direct_num_workers", "2", "foo"]):
        with pytest.raises(ConfigError, match="'foo' is no option"):
            check(BeamConfig(args=args))
    check(BeamConfig(args=["--direct_num_workers", "2"]))


def test_the_pipeline_takes_options_for_all_steps_and_for_one(tmp_path):
    from pipeline.config import load
    from pipeline.definition import create_pipeline

    settings = load(overrides=["beam.workers=2", "beam.step_args={Transform: [--direct_num_workers=3]}"])
    made = create_pipeline(settings, str(tmp_path))
    assert "--direct_num_workers=2" in made.beam_pipeline_args
    steps = {step.id: step for step in made.components}
    workers = {
        name: beam.PipelineOptions(steps[name].executor_spec.beam_pipeline_args).view_as(beam.DirectOptions)
        for name in ("Transform", "Evaluator")
    }
    assert (workers["Transform"].direct_num_workers, workers["Evaluator"].direct_num_workers) == (3, 2)
    with pytest.raises(ConfigError, match=r"beam.step_args.Trainer: the steps that run on Beam are HandwritingExample"):
        for_pipeline(BeamConfig(step_args={"Trainer": []}), made.components)


@pytest.mark.slow
@pytest.mark.either_stack
def test_the_setup_file_ships_all_packages(tmp_path):
    """What Beam stages for the workers, installed into an empty folder, is enough to import every step."""
    client = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), "client"]
    subprocess.run(client, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("htr_client-*.tar.gz")
    options = parsed(**FLINK, worker_image="image", setup_file=str(ROOT / "setup.py"), extra_packages=[str(archive)])
    environment = DockerEnvironment.from_options(options.view_as(beam.PortableOptions))
    staged = dict(_staged(environment))
    packages = [staged["workflow.tar.gz"], staged[archive.name]]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", "site"]
    subprocess.run([*pip, *packages], cwd=tmp_path, check=True, capture_output=True)
    code = """
import components.batch_transcriber.batch, components.evaluator.tfma_metrics, components.example_gen.component
import components.transform.preprocessing, htr_client, pipeline.config
for module in (components, htr_client, pipeline):
    print(list(module.__path__)[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": "site", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [Path(line).parent.name for line in done.stdout.split()] == ["site"] * 3


def _staged(environment):
    """Names under which workers find the files, and where they are here."""
    for artifact in environment.artifacts():
        name = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload).staged_name
        yield name, beam_runner_api_pb2.ArtifactFilePayload.FromString(artifact.type_payload).path


@pytest.mark.either_stack
@pytest.mark.slow
def test_example_gen_gives_the_same_with_one_and_two_workers(sample_data, tmp_path):
    one, two = (_generate(sample_data, tmp_path / str(n), pipeline_options(BeamConfig(workers=n))) for n in (1, 2))
    assert one == two
    assert all(len(one[split]) > 5 for split in ("train", "validation", "eval"))
    assert len(one["rejects.csv"]) > 5


def _generate(data, folder, options):
    """Runs ExampleGen; returns the sorted records of each split and lines of each report."""
    folder.mkdir()
    example_gen(data, folder, options)
    found = {}
    for split in ("train", "validation", "eval"):
        files = [str(path) for path in (folder / "examples" / f"Split-{split}").glob("*.gz")]
        found[split] = sorted(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    for name in ("rejects.csv", "counts.json"):
        found[name] = sorted((folder / "quarantine" / name).read_text().splitlines())
    return found
