"""A version of a model in this process: `HtrClient` without a server.

The version runs as in the embedded server and its answers are decoded as everywhere, so the texts are the same.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from typing import Any

import grpc

from htr_client.base import DecoderOf
from htr_client.client import HtrClient
from htr_client.decoding import Decoder
from htr_client.ending import Ending
from htr_client.errors import ModelNotFound, ModelUnusable
from htr_client.messages import GET_MODEL_STATUS, ModelVersionStatus
from htr_client.model_facts import LINE_FINDER, MAX_PIXELS
from htr_client.network.connection import to_error
from htr_client.steps import Ask
from serving import tensors
from serving.runner import LoadedModel, RunnerOptions
from serving.status import ServingError
from serving.version_directory import number_of


class LocalTransport:
    """Answers the requests of a client with models in this process; see `htr_client.transport.Transport`.

    Safe to use from several threads; not to be used on both sides of a fork.
    """

    servers = 1

    def __init__(self, model: str, directories: Mapping[str, str], options: RunnerOptions) -> None:
        """Keeps the settings; a model is loaded by the first call that needs it.

        Args:
            model: Name of the model that `connect` loads.
            directories: The directory of a version, by the name of the model.
            options: How models are run.
        """
        self.name = f"the model in {directories[model]}"
        self._model = model
        self._directories = directories
        self._options = options
        self._loaded: dict[str, LoadedModel] = {}
        self._loading = threading.Lock()

    def connect(self, timeout: float) -> None:
        """Loads the model, which takes the time it takes.

        Raises:
            HtrError: When it cannot be loaded.
        """
        self._load(self._model)

    def call(self, ask: Ask, seconds: float, ending: Ending | None = None) -> Any:
        """Answers a request, without a deadline or an early end.

        Raises:
            HtrError: When the model is not there, cannot be loaded or fails.
        """
        name = ask.request.model_spec.name
        model = self._load(name)
        number = number_of(os.path.basename(self._directories[name])) or 0
        response = ask.answer()
        if ask.method == GET_MODEL_STATUS:
            response.model_version_status.add(version=number, state=ModelVersionStatus.AVAILABLE)
            return response
        try:
            signature, feeds, fetches = model.predict_feeds(ask.request)
            outputs = model.run(feeds, list(fetches.values()))
        except ServingError as error:
            raise to_error(_Failure(error), self.name, 0.0) from error
        response.model_spec.name, response.model_spec.signature_name = name, signature.name
        response.model_spec.version.value = number
        for alias, output in zip(fetches, outputs, strict=True):
            tensors.to_proto(output, response.outputs[alias])
        return response

    def close(self) -> None:
        """Frees the models; a later call loads them again."""
        with self._loading:
            loaded, self._loaded = self._loaded, {}
        for model in loaded.values():
            model.close()

    def _load(self, name: str) -> LoadedModel:
        directory = self._directories.get(name)
        if directory is None:
            raise ModelNotFound(f"There is no model {name} beside {self.name}.", advice="Name its version directory.")
        with self._loading:
            if name not in self._loaded:
                try:
                    self._loaded[name] = LoadedModel(directory, self._options)
                except ServingError as error:
                    reason = " ".join(error.message.split()).rstrip(".")
                    raise ModelUnusable(
                        f"the model in {directory} cannot be loaded: {reason}.", code=error.code.name
                    ) from error
            return self._loaded[name]


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
            line_finder: The directory of a version of the line finder, for `transcribe_page`.
            bfloat16: Whether to compute in bfloat16 where the processor has it: faster; a text differs now and then.
        """
        directories = {model: os.path.abspath(directory)}
        if line_finder is not None:
            directories[LINE_FINDER] = os.path.abspath(line_finder)
        # One batch is decoded while the next one runs. A failure here would come again: there is nothing to wait for.
        super().__init__(
            model=model,
            decoder=decoder,
            timeout=math.inf,
            batch_size=batch_size,
            in_flight=2,
            patience=0,
            max_pixels=max_pixels,
            transport=LocalTransport(model, directories, RunnerOptions(bfloat16=bfloat16)),
        )


class _Failure(grpc.RpcError):
    """An error of the model as a call to a server would raise it."""

    def __init__(self, error: ServingError) -> None:
        super().__init__(str(error))
        self._error = error

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[self._error.code.name]

    def details(self) -> str:
        return self._error.wire_message
