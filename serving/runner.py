"""One loaded version of a model: a SavedModel in a TF1 session, as TensorFlow Serving runs it.

The session is driven through the same C call that `tf.compat.v1.Session.run` ends in, but without Python's
own checks and conversions before it and without Python's additions to error messages after it: that way a
client gets the texts TensorFlow Serving sends. TensorFlow 2's `saved_model.load` gives other errors.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving import tensors
from serving.precision import has_bfloat16
from serving.signatures import (
    DEFAULT_SIGNATURE,
    Input,
    Signature,
    check_shapes,
    prepare_feeds,
    select_outputs,
)
from serving.status import Code, ServingError, deadline_exceeded, from_exception, invalid
from serving.version_directory import GRAPH_FILE, WARMUP_FILE

_INIT_OP_SIGNATURE = "__saved_model_init_op"
MAX_WARMUP_RECORDS = 1000
# What TensorFlow imports only if it is installed, and a session does not need: Keras, and what that imports; what is
# for Google's TPUs. Together half of the time and a quarter of the memory that TensorFlow's import takes.
_EXTRAS = ("googleapiclient", "h5py", "keras", "matplotlib", "pandas", "scipy", "sklearn")


@contextlib.contextmanager
def without_extras() -> Iterator[None]:
    """Imports TensorFlow, within the context, as if what a session can do without were not installed.

    For a process that only transcribes: `from tensorflow.keras import ...` fails in it.
    """
    hidden = [name for name in _EXTRAS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def import_tensorflow() -> Any:
    """Imports TensorFlow without its log noise.

    Returns:
        The `tensorflow` module.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    tensorflow.get_logger().setLevel("ERROR")
    return tensorflow


@dataclass(frozen=True)
class RunnerOptions:
    """How versions are loaded and checked."""

    tags: tuple[str, ...] = ("serve",)
    session_config: Any = None
    intra_op_parallelism: int = 0
    inter_op_parallelism: int = 0
    bfloat16: bool = False
    enable_warmup: bool = True
    max_tensor_bytes: int = 256 << 20


class LoadedModel:
    """A SavedModel in a session, ready to be run by many threads."""

    def __init__(self, path: str | Path, options: RunnerOptions) -> None:
        """Loads a version.

        Args:
            path: The version's directory.
            options: How to load.

        Raises:
            ServingError: It cannot be loaded; codes and texts are TensorFlow Serving's.
        """
        self.path = str(path)
        self.options = options
        self.tf = import_tensorflow()
        from tensorflow.python.client import pywrap_tf_session

        self._c_api: Any = pywrap_tf_session
        self.meta_graph = self._read_meta_graph()
        self.graph = self.tf.Graph()
        self._outputs: dict[str, Any] = {}
        self._output_lock = threading.Lock()
        try:
            self._import_graph()
            self.session = self.tf.compat.v1.Session(graph=self.graph, config=self._session_config())
            self._extend()
            self._restore()
            self.signatures = {name: self._signature(name, sig) for name, sig in self.meta_graph.signature_def.items()}
        except ServingError:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise from_exception(error) from error

    # -- loading ---------------------------------------------------------------------------------------------

    def _read_meta_graph(self) -> Any:
        from tensorflow.core.protobuf import saved_model_pb2

        file = Path(self.path, GRAPH_FILE)
        if not file.exists():
            raise ServingError(
                Code.NOT_FOUND,
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {self.path}. Check "
                "that the directory exists and that you have the right permissions for accessing it.",
            )
        try:
            saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        except OSError as error:
            raise ServingError(Code.UNKNOWN, f"{file}: {error.strerror}") from error
        except Exception as error:  # protobuf's DecodeError, whose import path differs between versions
            raise ServingError(Code.DATA_LOSS, f"Can't parse {file} as binary proto") from error
        for meta_graph in saved_model.meta_graphs:
            if set(meta_graph.meta_info_def.tags) == set(self.options.tags):
                return meta_graph
        raise ServingError(
            Code.NOT_FOUND,
            f"Could not find meta graph def matching supplied tags: {{ {' '.join(self.options.tags)} }}. "
            "To inspect available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
        )

    def _session_config(self) -> Any:
        config = self.tf.compat.v1.ConfigProto()
        if self.options.session_config is not None:
            config.CopyFrom(self.options.session_config)
        if self.options.intra_op_parallelism > 0:
            config.intra_op_parallelism_threads = self.options.intra_op_parallelism
        if self.options.inter_op_parallelism > 0:
            config.inter_op_parallelism_threads = self.options.inter_op_parallelism
        config.gpu_options.allow_growth = True  # several versions live side by side during a swap
        if self.options.bfloat16 and has_bfloat16():
            config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = 1  # RewriterConfig.ON
        return config

    def _import_graph(self) -> None:
        with self.graph.as_default():
            try:
                self.tf.graph_util.import_graph_def(
                    self.meta_graph.graph_def,
                    name="",
                    producer_op_list=self.meta_graph.meta_info_def.stripped_op_list,
                )
            except ValueError as error:
                raise invalid(str(error)) from error

    def _extend(self) -> None:
        self.session._extend_graph()

    def _restore(self) -> None:
        folder = Path(self.path, "variables")
        saver = self.meta_graph.saver_def
        assets = self._asset_feeds()
        has_files = (folder / "variables.index").exists()
        if not has_files and self._needs_variables():
            raise ServingError(
                Code.NOT_FOUND,
                f"{folder}{os.sep} holds no checkpoint, but the model has variables. (TensorFlow Serving would "
                "load this version and then fail every request.)",
            )
        if has_files and saver.restore_op_name:
            prefix = np.array(str(folder / "variables").encode(), dtype=object)
            feeds = {saver.filename_tensor_name: prefix, **assets}
            self._call(feeds, [], [saver.restore_op_name])
        init_op = self._init_op()
        if init_op:
            self._call(assets, [], [init_op])

    def _needs_variables(self) -> bool:
        kinds = {"VarHandleOp", "VariableV2", "Variable"}
        return any(node.op in kinds for node in self.meta_graph.graph_def.node)

    def _init_op(self) -> str:
        signature = self.meta_graph.signature_def.get(_INIT_OP_SIGNATURE)
        if signature is not None and signature.outputs:
            return str(next(iter(signature.outputs.values())).name).split(":")[0]
        for key in ("saved_model_main_op", "legacy_init_op"):
            if key in self.meta_graph.collection_def:
                names = self.meta_graph.collection_def[key].node_list.value
                if names:
                    return str(names[0])
        return ""

    def _asset_feeds(self) -> dict[str, np.ndarray]:
        return {
            asset.tensor_info.name: np.array(os.path.join(self.path, "assets", asset.filename).encode(), dtype=object)
            for asset in self.meta_graph.asset_file_def
        }

    def _signature(self, name: str, definition: Any) -> Signature:
        defaults = getattr(definition, "defaults", {})
        inputs = []
        for alias in sorted(definition.inputs):
            info = definition.inputs[alias]
            shape = None if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim)
            default = None
            if alias in defaults:
                default = tensors.from_proto(defaults[alias], self.options.max_tensor_bytes)
            inputs.append(Input(alias, info.name, info.dtype, shape, default))
        outputs = {alias: definition.outputs[alias].name for alias in sorted(definition.outputs)}
        return Signature(name, tuple(inputs), outputs)

    # -- running ---------------------------------------------------------------------------------------------

    def signature(self, name: str) -> Signature:
        """Returns a signature, the default one for an empty name.

        Raises:
            ServingError: There is none of that name.
        """
        name = name or DEFAULT_SIGNATURE
        found = self.signatures.get(name)
        if found is None:
            raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        return found

    def _output(self, name: str) -> Any:
        handle = self._outputs.get(name)
        if handle is None:
            with self._output_lock:
                full = name if ":" in name else name + ":0"
                handle = self._outputs[name] = self.graph.get_tensor_by_name(full)._as_tf_output()
        return handle

    def _call(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], targets: Sequence[str] = (), timeout_ms: int = 0
    ) -> list[np.ndarray]:
        c_api = self._c_api
        options = None
        if timeout_ms > 0:
            run_options = self.tf.compat.v1.RunOptions(timeout_in_ms=timeout_ms)
            options = c_api.TF_NewBufferFromString(run_options.SerializeToString())
        try:
            result: list[np.ndarray] = c_api.TF_SessionRun_wrapper(
                self.session._session,
                options,
                {self._output(name): array for name, array in feeds.items()},
                [self._output(name) for name in fetches],
                [self.graph.get_operation_by_name(name)._c_op for name in targets],
                None,
            )
            return result
        finally:
            if options is not None:
                c_api.TF_DeleteBuffer(options)

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], deadline: float | None = None
    ) -> list[np.ndarray]:
        """Runs the graph.

        Args:
            feeds: Tensor name to array.
            fetches: Tensor names to return.
            deadline: `time.monotonic()` value after which the run is cancelled.

        Returns:
            The fetched arrays, in order.

        Raises:
            ServingError: With the session's own code and text.
        """
        timeout_ms = 0
        if deadline is not None:
            timeout_ms = int((deadline - time.monotonic()) * 1000)
            if timeout_ms <= 0:
                raise deadline_exceeded()
        try:
            return self._call(feeds, fetches, (), timeout_ms)
        except Exception as error:
            raise from_exception(error) from error

    def predict_feeds(self, request: Any) -> tuple[Signature, dict[str, np.ndarray], dict[str, str]]:
        """Checks a PredictRequest against this version.

        Args:
            request: The PredictRequest.

        Returns:
            The signature, the feeds, and alias to tensor name of the wanted outputs.

        Raises:
            ServingError: The request does not fit the signature.
        """
        signature = self.signature(request.model_spec.signature_name)
        feeds = prepare_feeds(signature, request.inputs, self.options.max_tensor_bytes)
        fetches = select_outputs(signature, request.output_filter)
        check_shapes(signature, feeds)
        return signature, feeds, fetches

    def warm_up(self) -> int:
        """Answers the version's warm-up requests, if it ships any.

        Returns:
            The number of records.

        Raises:
            ServingError: A record cannot be read or answered; such a version must never be served.
        """
        file = os.path.join(self.path, WARMUP_FILE)
        if not self.options.enable_warmup or not os.path.exists(file):
            return 0
        count = 0
        for record in self._warmup_records(file):
            count += 1
            if count > MAX_WARMUP_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_WARMUP_RECORDS}) at {file}")
            kind = record.WhichOneof("log_type")
            if kind is None:
                continue
            if kind != "predict_log":
                number = record.DESCRIPTOR.fields_by_name[kind].number
                raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
            _, feeds, fetches = self.predict_feeds(record.predict_log.request)
            self.run(feeds, list(fetches.values()))
        return count

    def _warmup_records(self, file: str) -> Iterator[Any]:
        from tensorflow_serving.apis import prediction_log_pb2

        try:
            for data in self.tf.compat.v1.io.tf_record_iterator(file):
                yield prediction_log_pb2.PredictionLog.FromString(data)
        except self.tf.errors.DataLossError as error:
            text = f"{error.message}. Please verify your warmup data is in TFRecord format."
            raise ServingError(Code.DATA_LOSS, text) from error
        except ServingError:
            raise
        except Exception as error:
            if type(error).__name__ == "DecodeError":
                raise invalid(f"Failed to parse warmup record from {file}") from error
            raise from_exception(error) from error

    def cancel(self) -> None:
        """Ends the runs under way with an error, and refuses further ones; an operation that has begun ends first."""
        self.session.close()

    def close(self) -> None:
        """Frees session and graph; nothing may run them any more."""
        session: Any = getattr(self, "session", None)
        if session is not None:
            session.close()
        # A graph is full of reference cycles. The collector comes to them only now and then, and holds all answers up
        # for half a second when it does.
        from tensorflow.python.framework import ops

        dismantle: Any = ops.dismantle_graph
        dismantle(self.graph)


def release_memory() -> None:
    """Gives back to the system what glibc keeps of freed memory: an arena for each thread that has loaded a version."""
    with contextlib.suppress(OSError, AttributeError):  # other systems have no such function
        ctypes.CDLL(None).malloc_trim(0)
