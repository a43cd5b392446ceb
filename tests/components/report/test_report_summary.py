"""What is told of runs: their names, how they ended, and what has become of their versions."""

import json

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from components.common.run_metadata import NoSuchRun
from components.report import summary
from components.report.summary import RunSummary, Step
from tests.components.report.report_material import material, table, without_plots, words


@pytest.fixture
def note(tmp_path):
    """Notes runs in the metadata of a workspace, each with a step."""
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(tmp_path / "metadata.db")
    connection.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    store = metadata_store.MetadataStore(connection)

    def put(run_id):
        names = {"pipeline": "htr", "pipeline_run": run_id, "node": "htr.Pusher"}
        contexts = [mlmd.Context(type_id=store.put_context_type(mlmd.ContextType(name=kind)), name=name)
                    for kind, name in names.items()]  # fmt: skip
        kind = store.put_execution_type(mlmd.ExecutionType(name="step"))
        step = mlmd.Execution(type_id=kind, last_known_state=mlmd.Execution.COMPLETE)
        store.put_execution(step, [], contexts, reuse_context_if_already_exist=True)

    return put


def test_a_run_is_found_by_the_name_that_is_shown_although_another_begins_with_it(note, tmp_path):
    ids = ("nightly", "nightly-2", "weekly/2026-05", "2026-05-04T10:12:31.5", "2026-05-04T10:12:32.5")
    for run_id in ids:
        note(run_id)
    for run in summary.read_all(str(tmp_path), "htr"):
        for name in (run.name, run.run_id):
            assert summary.read(str(tmp_path), "htr", name).run_id == run.run_id
    assert summary.read(str(tmp_path), "htr", "weekly-2026").run_id == "weekly/2026-05"
    with pytest.raises(NoSuchRun, match="Several runs are called 2026-05-04"):
        summary.read(str(tmp_path), "htr", "2026-05-04")


def test_the_list_of_runs_tells_what_has_become_of_their_versions(tmp_path):
    base = tmp_path / "htr"
    figures = dict.fromkeys(("reliability", "review", "distributions", "curves", "confusion"), "")
    contents = {**without_plots(material(table(words(50)))), "figures": figures}
    (tmp_path / "contents.json").write_text(json.dumps(contents))

    def told(number=7, folder=base, withheld=False):
        path = str(folder / str(number))
        push = {"withdrawn_path": path} if withheld else {"pushed": True, "version": number, "pushed_path": path}
        return RunSummary("a", [], 0.0, counts={}, report_folder=str(tmp_path), **push)

    assert told().version_text == "7", "another machine's folder"
    (base / "7").mkdir(parents=True)
    assert (told().version_text, told(6).version_text) == ("7", "6 (deleted)")
    assert told(withheld=True).version_text == "7", "it was restored"
    assert "this model is version 7, which was withdrawn then." in told(withheld=True).page()
    (base / "7").rename(base / ".withdrawn-7")
    assert told().version_text == told(withheld=True).version_text == "7 (withdrawn)"
    assert "htr restore 7" in told(withheld=True).page()
    assert told(folder=tmp_path / "elsewhere", withheld=True).version_text == "7 (withdrawn)"
    assert RunSummary("a", [], 0.0, {}, pushed=True, version=7, pushed_path="gs://b/htr/7").version_text == "7"


def test_a_blessed_model_that_was_not_pushed_yet_is_told_from_a_pushed_one(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"blessed": True}))
    steps = [Step("Evaluator", "COMPLETE", 1.0), Step("Pusher", "RUNNING", 1.0)]
    run = {"run_id": "a", "steps": steps, "seconds": 2.0, "counts": {}, "report_folder": str(tmp_path)}
    assert RunSummary(**run).outcome == "blessed, not pushed"
    assert RunSummary(**run, pushed=True).outcome == RunSummary(**run, withdrawn_path="htr/7").outcome == "blessed"
