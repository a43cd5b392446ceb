"""Launches one step of a compiled pipeline, as the local runner and a task of an orchestrator both do.

TFX takes a step's result from the cache when its inputs, settings and executor's name are the same and the folders of
the result exist. Here two things more count: the code that the step runs (`components.common.code_version`), and
whether the files of the result are still those that the step has written.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, outputs_utils

from components.common import code_version, in_service, run_metadata, storage, versions
from components.common.console import console
from components.example_gen.rejects import REJECTS_FILE
from components.pusher.component import MODEL_NAME
from components.pusher.publishing import WITHDRAWN_VERSION

_FILES_PROPERTY = "output_files"
_PUSHED = "pushed_destination"  # property of TFX's PushedModel


class MissingInput(RuntimeError):
    """A step has no input, since a step before it has not run; the message says which may be meant."""


class _Launcher(launcher.Launcher):
    """Gives executors empty output folders.

    Another try in an Airflow run gets the execution of the one that was killed, and with it the folders, half-written.
    There Transform, for example, could not rename its graph into place.
    """

    def _run_executor(self, execution_info: Any) -> Any:
        outputs_utils.remove_output_dirs(
            {key: [a for a in found if fileio.exists(a.uri)] for key, found in execution_info.output_dict.items()}
        )
        return super()._run_executor(execution_info)


def metadata_connection(pipeline: Any) -> Any:
    """The ML Metadata connection that a compiled pipeline carries."""
    config = runner_utils.extract_local_deployment_config(pipeline).metadata_connection_config
    return getattr(config, config.WhichOneof("connection_config"))


def launch(pipeline: Any, node: Any, connection: metadata.Metadata) -> Any:
    """Runs driver, executor and publisher of a step; a step whose result is cached does not execute.

    Args:
        pipeline: Compiled pipeline, its runtime parameters filled in.
        node: The step, one of its `nodes`.
        connection: Connection to ML Metadata.

    Returns:
        What TFX says about the execution.

    Raises:
        MissingInput: Steps before it have not run.
    """
    # Steps share a process, and with a model server the GPU. TensorFlow reads this once, when it is first used.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    deployment = runner_utils.extract_local_deployment_config(pipeline)
    node_id = node.pipeline_node.node_info.id
    executor = runner_utils.extract_executor_spec(deployment, node_id)
    if executor is not None:
        _add_code_version(executor, node.pipeline_node)
    name = f"{pipeline.pipeline_info.id}.{node_id}"
    with connection as handle:
        _forget_damaged(handle.store, name)
    execution = _Launcher(
        pipeline_node=node.pipeline_node,
        mlmd_connection=connection,
        pipeline_info=pipeline.pipeline_info,
        pipeline_runtime_spec=pipeline.runtime_spec,
        executor_spec=executor,
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
    ).launch()
    if execution is not None and execution.execution_id:
        with connection as handle:
            if _has_failed(handle.store, execution.execution_id):  # TFX raises what an executor does, but not this
                before = ", ".join(node.pipeline_node.upstream_nodes)
                raise MissingInput(f"{node_id} has not all of its inputs: first run the steps before it ({before})")
            _note_files(handle.store, execution.execution_id)
            _copy_rejects(handle.store, execution.execution_id, node.pipeline_node)
    return execution


def code_names(executor: Any, node: Any) -> list[str]:
    """Texts that name the code of a step for `code_version.digest`: its executor's class, and its settings.

    Args:
        executor: The step's executor in the deployment of a compiled pipeline.
        node: The step itself.
    """
    python = getattr(executor, "python_executor_spec", executor)
    return [python.class_path, *(value.field_value.string_value for value in node.parameters.parameters.values())]


def _add_code_version(executor: Any, node: Any) -> None:
    """Makes the code a part of the executor's specification, which TFX's cache compares; executors ignore the flag."""
    python = getattr(executor, "python_executor_spec", executor)
    python.extra_flags.append(f"--code_version={code_version.digest(code_names(executor, node))}")


def _has_failed(store: Any, execution_id: int) -> bool:
    (execution,) = store.get_executions_by_id([execution_id])
    return execution.last_known_state == metadata_store_pb2.Execution.FAILED


def _note_files(store: Any, execution_id: int) -> None:
    """Notes with an execution what it has written."""
    (execution,) = store.get_executions_by_id([execution_id])
    if execution.last_known_state == metadata_store_pb2.Execution.COMPLETE:
        outputs = _outputs(store, execution_id)
        execution.custom_properties[_FILES_PROPERTY].string_value = _listing(outputs)
        store.put_executions([execution])


def _copy_rejects(store: Any, execution_id: int, node: Any) -> None:
    """Copies the rejects of a cached result to where the step itself writes them for people, which another run did."""
    if "rejects_copy" not in node.parameters.parameters:
        return
    copy = node.parameters.parameters["rejects_copy"].field_value.string_value
    (execution,) = store.get_executions_by_id([execution_id])
    if execution.last_known_state == metadata_store_pb2.Execution.CACHED:
        storage.copy_file(
            os.path.join(run_metadata.outputs_of(store, execution_id)["quarantine"].uri, REJECTS_FILE), copy
        )


def _forget_damaged(store: Any, node: str) -> None:
    """Marks results of a step as deleted whose files are not those that were written: nothing uses them any more.

    Names and sizes are compared, which takes no time; content that has been altered without another size is not
    noticed, since reading gigabytes of examples again would cost more than most steps.
    """
    context = store.get_context_by_type_and_name("node", node)
    for execution in store.get_executions_by_context(context.id) if context else ():
        if _FILES_PROPERTY not in execution.custom_properties:
            continue
        outputs = [a for a in _outputs(store, execution.id) if a.state == metadata_store_pb2.Artifact.LIVE]
        if not outputs or _listing(outputs) == execution.custom_properties[_FILES_PROPERTY].string_value:
            continue
        for artifact in outputs:
            artifact.state = metadata_store_pb2.Artifact.DELETED
            if os.path.isdir(artifact.uri) and _told_version(artifact) is None:
                console().print(f"  not as it was written, and not used any more: {artifact.uri}", markup=False)
        store.put_artifacts(outputs)


def _outputs(store: Any, execution_id: int) -> list[Any]:
    return sorted(run_metadata.outputs_of(store, execution_id).values(), key=lambda artifact: artifact.id)


def _listing(artifacts: list[Any]) -> str:
    """Digest of the names and sizes of all files of some artifacts, and of the versions they tell of.

    It is another one once a newer version has taken the place of one of those, or it was withdrawn or restored.
    """
    total = hashlib.sha256()
    for artifact in artifacts:
        folders, properties = [artifact.uri], artifact.custom_properties
        if (path := _told_version(artifact)) is not None:
            folder, withdrawn = _version(path)
            folders.append(folder)
            if withdrawn:
                total.update(b"withdrawn")
            # Earlier code noted no name: for such a push the newest version counts.
            model = properties[MODEL_NAME].string_value if MODEL_NAME in properties else ""
            # The same model must be pushed again to be in service.
            if _PUSHED in properties and _is_followed(path, model):
                total.update(b"followed")
        for number, folder in enumerate(folders):
            # What is in a bucket would cost a request a file.
            for path, names in storage.walk(folder) if os.path.isdir(folder) else ():
                for name in names:
                    file = os.path.join(path, name)
                    total.update(
                        f"{artifact.id}/{number}{file.removeprefix(folder)} {os.path.getsize(file)}\n".encode()
                    )
    return total.hexdigest()


def _told_version(artifact: Any) -> str | None:
    """Path of the version that a PushedModel tells of, pushed or withdrawn; None for other artifacts."""
    properties = artifact.custom_properties
    return next((properties[name].string_value for name in (_PUSHED, WITHDRAWN_VERSION) if name in properties), None)


def _version(path: str) -> tuple[str, bool]:
    """Folder of a version, wherever it is now, and whether it is withdrawn, which is no damage."""
    model_dir, number = os.path.split(path)
    found = () if storage.is_remote(path) else versions.list_versions(model_dir)
    return next(((v.path, v.withdrawn) for v in found if str(v.number) == number), (path, False))


def _is_followed(path: str, name: str) -> bool:
    """Whether a newer version has taken the place of a pushed one, which a label does not keep in service."""
    model_dir, number = os.path.split(path)
    current = [version.number for version in in_service.needing_no_push(model_dir, name)]
    return int(number) not in current and any(other > int(number) for other in current)
