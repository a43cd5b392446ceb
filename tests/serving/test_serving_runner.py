"""Versions that cannot be loaded or warmed up: the code and the text that GetModelStatus will show."""

from __future__ import annotations

import shutil

import pytest

from serving.runner import MAX_WARMUP_RECORDS, LoadedModel, RunnerOptions, import_tensorflow
from serving.status import ServingError


def write_records(path, *records: bytes) -> None:
    with import_tensorflow().io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for record in records:
            writer.write(record)


def unreadable(path) -> None:
    (path / "saved_model.pb").unlink()
    (path / "saved_model.pb").mkdir()


def unknown_operation(path) -> None:
    import_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    model.meta_graphs[0].graph_def.node.add(name="strange", op="NoSuchOperation")
    file.write_bytes(model.SerializeToString())


def no_records(path) -> None:
    (path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"these are no records")


def other_log(path) -> None:
    import_tensorflow()
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.classify_log.SetInParent()
    write_records(path, log.SerializeToString())


@pytest.mark.parametrize(("damage", "message"), [
    (lambda path: (path / "saved_model.pb").unlink(), "NOT_FOUND: Could not find SavedModel .pb or .pbtxt"),
    (unreadable, "UNKNOWN: .*saved_model.pb: Is a directory"),
    (lambda path: (path / "saved_model.pb").write_bytes(b"\xff" * 500), "DATA_LOSS: Can't parse .* as binary proto"),
    (unknown_operation, "(INVALID_ARGUMENT|NOT_FOUND): .*NoSuchOperation"),
    (lambda path: shutil.rmtree(path / "variables"), "NOT_FOUND: .* holds no checkpoint, but the model has variables"),
    (no_records, "DATA_LOSS: .* Please verify your warmup data is in TFRecord format"),
    (lambda path: write_records(path, b"\xff"), "INVALID_ARGUMENT: Failed to parse warmup record from"),
    (other_log, "UNIMPLEMENTED: Unsupported log_type for warmup: "),
    (lambda path: write_records(path, *[b""] * (MAX_WARMUP_RECORDS + 1)), "INVALID_ARGUMENT: Number of warmup records"),
])  # fmt: skip
def test_damaged_versions(tmp_path, toy_model, damage, message):
    shutil.copytree(toy_model, tmp_path / "1")
    damage(tmp_path / "1")
    with pytest.raises(ServingError, match=f"^{message}"):
        LoadedModel(tmp_path / "1", RunnerOptions()).warm_up()


def test_tags_that_no_graph_has(toy_model):
    with pytest.raises(
        ServingError, match=r"^NOT_FOUND: Could not find meta graph def matching supplied tags: { gpu }"
    ):
        LoadedModel(toy_model, RunnerOptions(tags=("gpu",)))
