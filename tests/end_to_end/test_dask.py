"""`htr run` with its Beam steps on a Dask cluster: all steps, and the same artifacts as the local runner's."""

import json
from pathlib import Path

import pytest
import tensorflow as tf
from tfx.components.transform.executor import Executor as Transform
from tfx.orchestration import metadata
from tfx.orchestration.portable.mlmd.execution_lib import get_input_artifacts, get_output_artifacts

from components.evaluator.component import EvaluatorExecutor as Evaluator
from components.example_gen.component import Executor as ExampleGen
from pipeline.beam.options import pipeline_options
from pipeline.beam.settings import BeamConfig
from tests.end_to_end.conftest import run

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]
STEPS = {"HandwritingExampleGen": ExampleGen, "Transform": Transform, "Evaluator": Evaluator}


def test_all_steps_give_what_they_give_locally(data, dask, tmp_path, capsys):
    workspace = tmp_path / "workspace"
    with dask.busy() as workers:
        ran = run(data, workspace, capsys, *dask.settings, f"bulk.folder={data}")
    assert ran.code == 0, ran.err
    assert len(workers) == 2
    texts = [json.loads(line) for file in workspace.rglob("texts-0*.jsonl") for line in file.open()]
    assert len(texts) > 200
    compared: set[str] = set()
    for step, (there, here) in repeated(workspace, tmp_path / "local").items():
        found, expected = contents(there), contents(here)
        assert found.keys() == expected.keys(), step
        for name in expected:
            assert found[name] == expected[name], f"{step}: {name}"
        compared.update(expected)
    assert {"transform_fn/assets/alphabet.json", "metrics", "gate.json", "rejects.csv"} <= compared


def repeated(workspace: Path, folder: Path) -> dict[str, tuple[Path, Path]]:
    """Runs the steps on their inputs again, in this process; returns the folders of the outputs then and now."""
    options = pipeline_options(BeamConfig())
    outputs = {}
    with metadata.Metadata(metadata.sqlite_metadata_connection_config(str(workspace / "metadata.db"))) as handle:
        types = {kind.id: kind.name.rpartition(".")[2] for kind in handle.store.get_execution_types()}
        for execution in handle.store.get_executions():
            step = types[execution.type_id]
            if step not in STEPS:
                continue
            properties = {
                name: getattr(value, value.WhichOneof("value"))
                for name, value in execution.custom_properties.items()
                if not name.startswith("__")
            }
            inputs, written = (get(handle, execution.id) for get in (get_input_artifacts, get_output_artifacts))
            for name, (artifact,) in written.items():
                outputs[f"{step} {name}"] = (Path(artifact.uri), folder / step / name)
                artifact.uri = str(folder / step / name)
                Path(artifact.uri).mkdir(parents=True)
            context = STEPS[step].Context(beam_pipeline_args=options, tmp_dir=str(folder / "tmp"), unique_id="1")
            STEPS[step](context).Do(inputs, written, properties)
    assert {name.split()[0] for name in outputs} == STEPS.keys()
    return outputs


def contents(folder: Path) -> dict[str, object]:
    """What is in the files below a folder, by their names; records and lines in no particular order."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix in (".gz", ".tfrecord"):  # one of several files of records
            name = name.partition("-0000")[0]
            compression = "GZIP" if path.suffix == ".gz" else ""
            records = list(tf.data.TFRecordDataset(str(path), compression).as_numpy_iterator())
            if "Split-" in name:  # examples, which are maps
                examples = map(tf.train.Example.FromString, records)
                records = [example.SerializeToString(deterministic=True) for example in examples]
            found[name] = sorted([*found.get(name, []), *records])
        elif path.suffix in (".csv", ".json", ".json-00000-of-00001", ".pbtxt", ""):
            found[name] = sorted(path.read_bytes().splitlines())
    return found
