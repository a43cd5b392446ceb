"""`htr drift` compares with what a run was trained on: its statistics, counts and settings in ML Metadata."""

import json
from collections import Counter

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.example_gen.settings import DataConfig
from components.report.analysis import Characters
from components.report.html import CONTENTS_FILE, PREDICTIONS_FILE
from components.transform.settings import TransformConfig
from htr_client import RequestLog
from pipeline import cli
from tests.conftest import drawn_image, encode

pytestmark = pytest.mark.either_stack

LINE = "a line of text that needs more than 32 frames"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A dataset of words."""
    return dataset(tmp_path_factory.mktemp("data") / "words", ["word"] * 60, 90)


def dataset(folder, labels, width):
    """A dataset of drawn images with these labels."""
    folder.mkdir()
    for number in range(len(labels)):
        (folder / f"{number}.png").write_bytes(encode(drawn_image(width, seed=number)))
    rows = [f"{number}.png,{label}" for number, label in enumerate(labels)]
    (folder / "labels.csv").write_text("\n".join(["filename,text", *rows, ""]), encoding="utf-8")
    return folder


def drift(data, *more, capsys):
    """Exit code, what was found, and what was said beside it."""
    code = cli.main(["drift", "--data", str(data), "--json", *more])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def rejected_share(found):
    (share,) = [measure["after"] for measure in found["measures"] if measure["name"] == "rejected"]
    return share


def opened(workspace):
    """ML Metadata of a workspace, to write to."""
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(workspace / "metadata.db")
    connection.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return metadata_store.MetadataStore(connection)


def put_run(store, name, step, state=mlmd.Execution.COMPLETE, outputs=(), **settings):
    """A run of one step."""
    names = {"pipeline": "htr", "pipeline_run": name, "node": f"htr.{step}"}
    contexts = [mlmd.Context(type_id=store.put_context_type(mlmd.ContextType(name=kind)), name=called)
                for kind, called in names.items()]  # fmt: skip
    execution = mlmd.Execution(
        type_id=store.put_execution_type(mlmd.ExecutionType(name="step")), last_known_state=state
    )
    for parameter, section in settings.items():
        execution.custom_properties[parameter].string_value = section.model_dump_json()
    store.put_execution(execution, outputs, contexts, reuse_context_if_already_exist=True)


def a_run(workspace, accepted, rejected, **settings):
    """Metadata of a run that has read and counted its data; returns the folder of its report, which is empty."""
    quarantine, statistics, report = (workspace / name for name in ("quarantine", "statistics", "report"))
    quarantine.mkdir(parents=True)
    report.mkdir()
    (quarantine / "counts.json").write_text(json.dumps({"accepted": accepted, "rejected": rejected, "notes": []}))
    measured = statistics_pb2.DatasetFeatureStatisticsList()
    measured.datasets.add(num_examples=accepted["train"])
    (statistics / "Split-train").mkdir(parents=True)
    (statistics / "Split-train" / "FeatureStats.pb").write_bytes(measured.SerializeToString())
    store = opened(workspace)
    outputs = []
    for kind, folder in (("Quarantine", quarantine), ("ExampleStatistics", statistics), ("Report", report)):
        artifact = mlmd.Artifact(type_id=store.put_artifact_type(mlmd.ArtifactType(name=kind)), uri=str(folder))
        steps = [{"key": folder.name}, {"index": 0}]
        outputs.append((artifact, mlmd.Event(type=mlmd.Event.OUTPUT, path={"steps": steps})))
    put_run(store, "2026-01-01T00:00:00", "StatisticsGen", outputs=outputs, **settings)
    return report


def test_rows_are_rejected_by_the_settings_of_the_run(tmp_path, capsys):
    workspace, arguments = tmp_path / "workspace", ["--workspace", str(tmp_path / "workspace")]
    a_run(
        workspace, {"train": 60}, {}, transform_config=TransformConfig(preset="line"),
        data_config=DataConfig(alphabet="".join(set(LINE)), image_column="a column of other data"),
    )  # fmt: skip
    data = dataset(tmp_path / "lines", [*[LINE] * 19, LINE.upper()], 700)
    _, found, _ = drift(data, *arguments, capsys=capsys)
    assert rejected_share(found) == pytest.approx(0.05), "only the label with characters that the run rejects, too"
    _, found, _ = drift(data, *arguments, "--set", "data.alphabet=null", capsys=capsys)
    assert rejected_share(found) == 0
    code, _, err = drift(data, *arguments, "--set", "transform.preset=word", capsys=capsys)
    assert code == cli.USAGE and "transform.preset=line has frames enough for 19 of these 19" in err


def test_lines_that_the_preset_for_words_leaves_out_are_told(words, tmp_path, capsys):
    data = dataset(tmp_path / "lines", [LINE, LINE, "a word"], 700)
    _, found, err = drift(data, "--against", str(words), capsys=capsys)
    (note,) = found["notes"]
    assert note.startswith("lines: 2 of 3 rows left out, label_too_long: transform.preset=line has frames enough for 2")
    assert note in err


def test_rejected_rows_of_a_run_are_a_share_of_all_its_rows(words, tmp_path, capsys):
    a_run(tmp_path / "workspace", {"train": 72, "validation": 9, "eval": 9}, {"missing_file": 10})
    assert cli.main(["drift", "--workspace", str(tmp_path / "workspace"), "--data", str(words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (rejected,) = [measure for measure in found["measures"] if measure["name"] == "rejected"]
    assert rejected["before"] == pytest.approx(0.1) and found["samples"][0] == 72


@pytest.mark.parametrize(
    ("decoder", "weight", "known"), [("default", 0.8, True), ("best_path", 0.8, False), ("best_path", 0.0, True)]
)
def test_confidence_is_compared_where_both_sides_are_decoded_alike(words, tmp_path, capsys, decoder, weight, known):
    folder = a_run(tmp_path / "workspace", {"train": 72, "validation": 9, "eval": 9}, {})
    written = {"config": {"gate": {"decoder": decoder}}, "language_model": {"weight": weight}, "characters": [],
               "model": {"alphabet": "ab"}}  # fmt: skip
    (folder / CONTENTS_FILE).write_text(json.dumps(written))
    (folder / PREDICTIONS_FILE).write_text("confidence\n" + "0.9\n0.8\n" * 30)
    log = RequestLog(tmp_path / "log", rate=1)
    for number in range(20):
        log.offer(encode(drawn_image(seed=number)), "word", 0.9, "htr", 7)
    log.close()
    arguments = ["--workspace", str(tmp_path / "workspace"), "--data", str(tmp_path / "log"), "--json"]
    assert cli.main(["drift", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert ("confidence" in [measure["name"] for measure in found["measures"]]) == known
    assert any("without its language model (gate.decoder=best_path)" in note for note in found["notes"]) != known


def test_characters_that_only_the_start_of_a_model_knows_are_new_in_labels(words, tmp_path, capsys):
    """The alphabet of a model has more than its labels: by default all characters of its base model."""
    folder = a_run(tmp_path / "workspace", {"train": 72, "validation": 9, "eval": 9}, {})
    table = Characters().table(Counter("word" * 60), "word0123456789")
    written = {"config": {"gate": {"decoder": "default"}}, "language_model": None, "characters": table,
               "model": {"alphabet": "".join(row["character"] for row in table)}}  # fmt: skip
    (folder / CONTENTS_FILE).write_text(json.dumps(written))
    (folder / PREDICTIONS_FILE).write_text("confidence\n0.9\n")
    arguments = ["--workspace", str(tmp_path / "workspace")]
    other = dataset(tmp_path / "other", ["17", "word", "word", "word"] * 15, 90)
    for data, share in ((words, 0.0), (other, 0.25)):
        _, found, _ = drift(data, *arguments, capsys=capsys)
        (measure,) = [measure for measure in found["measures"] if measure["name"] == "new_characters"]
        assert measure["after"] == share and ("new_characters" in found["moved"]) == bool(share)


def test_no_run_to_compare_with(words, tmp_path, capsys):
    assert cli.main(["drift", "--data", str(words), "--workspace", str(tmp_path)]) == cli.ERROR
    assert "holds no run yet" in capsys.readouterr().err


def test_a_run_that_failed_before_its_data_was_measured_hides_no_earlier_one(words, tmp_path, capsys):
    arguments, store = ["--workspace", str(tmp_path)], opened(tmp_path)
    put_run(store, "2025-12-31T00:00:00", "HandwritingExampleGen", mlmd.Execution.FAILED)
    code, _, err = drift(words, *arguments, capsys=capsys)
    assert code == cli.USAGE and "Run 2025-12-31T00:00:00 ended before its data was measured" in err
    assert "--against DIR" in err
    a_run(tmp_path, {"train": 60}, {})
    put_run(store, "2026-01-02T00:00:00.000025", "HandwritingExampleGen", mlmd.Execution.FAILED)
    code, found, err = drift(words, *arguments, capsys=capsys)
    assert code == cli.OK and found["before"] == "training data of run 2026-01-01T00:00:00"
    assert found["notes"] == [
        "Run 2026-01-02T00:00:00 ended before its data was measured (failed at HandwritingExampleGen); run "
        "2026-01-01T00:00:00 is the latest before it that came so far."
    ]
    code, _, err = drift(words, *arguments, "--run", "2026-01-02", capsys=capsys)
    assert code == cli.USAGE and "Name another with --run; `htr runs` lists them." in err
