"""A version of a model in this process: `HtrClient` without a server.

The version runs as in the embedded server and its answers are decoded as everywhere, so the texts are the same.
"""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import grpc

from htr_client.base import DecoderOf
from htr_client.client import HtrClient
from htr_client.connection import to_error
from htr_client.decoding import Decoder
from htr_client.ending import Ending
from htr_client.errors import ModelNotFound, ModelUnusable
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.reading import LINE_FINDER
from htr_client.request_log import RequestLog
from htr_client.results import VersionStatus
from htr_client.steps import Ask
from serving import tensors
from serving.runner import LoadedModel, RunnerOptions
from serving.status import ServingError
from serving.version_directory import number_of

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class LocalClient(HtrClient):
    """Transcribes images of handwriting with a version of a model on this machine.

    Safe to use from several threads; not to be used on both sides of a fork.

        with LocalClient("workspace/serving_model/htr/1795655053") as client:
            print(client.transcribe("word.png").text)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        model: str = "htr",
        *,
        decoder: Decoder | DecoderOf | None = None,
        batch_size: int = 32,
        max_pixels: int = MAX_PIXELS,
        log: RequestLog | None = None,
        line_finder: str | os.PathLike[str] | None = None,
        bfloat16: bool = False,
    ) -> None:
        """Keeps the settings; a model is loaded by the first call that needs it.

        Args:
            directory: The version's directory.
            model: Name of the model in results and log.
            decoder: How log-probabilities become text; by default as `HtrClient`.
            batch_size: Most images of one run of the model in `transcribe_many`.
            max_pixels: Images with more pixels are refused before they are decoded.
            log: Log that gets the images and what was read in them, and keeps a sample.
            line_finder: The directory of a version of the line finder, for `transcribe_page`.
            bfloat16: Whether to compute in bfloat16 where the processor has it: faster; a text differs now and then.
        """
        # One batch is decoded while the next one runs. A failure here would come again: there is nothing to wait for.
        super().__init__(
            model=model,
            decoder=decoder,
            timeout=math.inf,
            batch_size=batch_size,
            in_flight=2,
            patience=0,
            max_pixels=max_pixels,
            log=log,
        )
        self.server = f"the model in {os.fspath(directory)}"
        self._directory = os.path.abspath(directory)
        self._number = number_of(os.path.basename(self._directory)) or 0
        self._directories = {model: self._directory}
        if line_finder is not None:
            self._directories[LINE_FINDER] = os.path.abspath(line_finder)
        self._runner = RunnerOptions(bfloat16=bfloat16)
        self._loaded: dict[str, LoadedModel] = {}
        self._loading = threading.Lock()

    def connect(self, timeout: float = 5.0) -> None:
        """Loads the model now rather than with the first call.

        Args:
            timeout: Without meaning here: loading takes the time it takes.

        Raises:
            HtrError: When it cannot be loaded.
        """
        self._model()

    def close(self) -> None:
        """Frees the models; a later call would load them again."""
        with self._loading:
            loaded, self._loaded = self._loaded, {}
        for model in loaded.values():
            model.close()

    def model_status(self, timeout: float | None = None) -> list[VersionStatus]:
        """The one version that there is, loaded."""
        self._model()
        return [VersionStatus(self._number, "AVAILABLE", "")]

    def _model(self, name: str | None = None) -> LoadedModel:
        name = name or self.model
        directory = self._directories.get(name)
        if directory is None:
            raise ModelNotFound(f"There is no model {name} beside {self.server}.", advice="Name its version directory.")
        with self._loading:
            if name not in self._loaded:
                try:
                    self._loaded[name] = LoadedModel(directory, self._runner)
                except ServingError as error:
                    reason = " ".join(error.message.split()).rstrip(".")
                    raise ModelUnusable(
                        f"the model in {directory} cannot be loaded: {reason}.", code=error.code.name
                    ) from error
            return self._loaded[name]

    def _call(self, ask: Ask, ending: Ending | None = None) -> Any:
        """Answers a PredictRequest, for which `HtrClient` would ask a server, without a deadline or an early end."""
        model = self._model(ask.request.model_spec.name)
        try:
            signature, feeds, fetches = model.predict_feeds(ask.request)
            outputs = model.run(feeds, list(fetches.values()))
        except ServingError as error:
            raise to_error(_Failure(error), self.server, 0.0) from error
        response = ask.answer()
        response.model_spec.name, response.model_spec.signature_name = ask.request.model_spec.name, signature.name
        response.model_spec.version.value = self._number
        for alias, output in zip(fetches, outputs, strict=True):
            tensors.to_proto(output, response.outputs[alias])
        return response


class _Failure(grpc.RpcError):
    """An error of the model as a call to a server would raise it."""

    def __init__(self, error: ServingError) -> None:
        super().__init__(str(error))
        self._error = error

    def code(self) -> grpc.StatusCode:
        return _CODES[self._error.code]

    def details(self) -> str:
        return self._error.wire_message
