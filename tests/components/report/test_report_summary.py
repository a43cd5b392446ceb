"""What is told of runs: their names, how they ended, and what has become of their versions."""

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from components.common.run_metadata import NoSuchRun
from components.report import summary


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
