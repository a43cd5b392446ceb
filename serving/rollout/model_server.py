"""A running model server, embedded or TensorFlow Serving, as whoever moves labels sees it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serving.rollout.labels import LABELS, RolloutError, Served, messages

if TYPE_CHECKING:
    from htr_client.tls import Tls

_SERVICE = "/tensorflow.serving.ModelService/"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
_CALL_SECONDS = 30.0


class ServerError(RolloutError):
    """A server cannot be reached or refused a call.

    Attributes:
        code: Name of the gRPC status code.
    """

    def __init__(self, message: str, code: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class VersionStatus:
    """A version as a server sees it.

    Attributes:
        number: Number of the version.
        state: Name of its state, such as AVAILABLE.
        error: Why it ended, or "".
        labels: Labels that it has.
    """

    number: int
    state: str
    error: str
    labels: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The error without the graph's nodes, which TensorFlow appends on lines of their own."""
        return self.error.partition("\n")[0]


class Server:
    """One model server, embedded or TensorFlow Serving."""

    def __init__(self, address: str, tls: Tls | None = None):
        """Opens a connection when the first call is made.

        Args:
            address: Address, host:port.
            tls: Encryption and identity; None for plain text.
        """
        import grpc

        self.address = address
        # Not shared with other channels of the process, whose connection may be in a back-off.
        options: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        if tls is not None and tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        self._channel = (
            grpc.insecure_channel(address, options)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), options)
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._channel.close()

    def _call(self, method: str, request: Any, response: Any) -> Any:
        import grpc

        call = self._channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        try:
            return call(request, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            code = error.code().name
            details = f": {error.details().rstrip('.')}" if error.details() else ""
            raise ServerError(
                f"{self.address} answered {code} to {method.rpartition('/')[2]}{details}.", code
            ) from None

    def reload(self, config: Any) -> None:
        """Makes this the server's whole configuration.

        Raises:
            ServerError: The server cannot be reached or refused.
        """
        request = messages().ReloadConfigRequest()
        # The two sides may have loaded the descriptors apart.
        request.config.MergeFromString(config.SerializeToString())
        answer = self._call(_SERVICE + "HandleReloadConfigRequest", request, messages().ReloadConfigResponse)
        if answer.status.error_code:
            text = f"{self.address} refused: {answer.status.error_message.rstrip('.')}."
            raise ServerError(text, str(answer.status.error_code))

    def versions(self, name: str) -> dict[int, VersionStatus]:
        """The versions of a model that the server knows, without labels.

        Raises:
            ServerError: The server cannot be reached or does not serve the model.
        """
        request = messages().GetModelStatusRequest()
        request.model_spec.name = name
        answer = self._call(_SERVICE + "GetModelStatus", request, messages().GetModelStatusResponse)
        return {
            row.version: VersionStatus(
                row.version, STATES.get(row.state, str(row.state)), row.status.error_message or _code_text(row)
            )
            for row in answer.model_version_status
        }

    def served(self, name: str, labels: Iterable[str] = ()) -> Served:
        """What the server serves of a model, which is nothing where it does not know the model.

        Args:
            name: Name of the model.
            labels: Labels to ask for besides the usual ones.
        """
        try:
            rows = self.versions(name)
        except ServerError as error:
            if error.code != "NOT_FOUND":
                raise
            rows = {}
        live = frozenset(number for number, row in rows.items() if row.state in ("START", "LOADING", "AVAILABLE"))
        present = {label: self.label(name, label) for label in sorted({*LABELS, *labels})} if live else {}
        return Served(live, {label: number for label, number in present.items() if number is not None})

    def label(self, name: str, label: str) -> int | None:
        """The version that answers to a label; None if none does."""
        request = messages().GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = name
        request.model_spec.version_label = label
        try:
            answer = self._call(_METADATA, request, messages().GetModelMetadataResponse)
        except ServerError as error:
            # Unknown label, its version is unloaded, or no label has been given yet.
            if error.code in ("INVALID_ARGUMENT", "NOT_FOUND") or "labels does not init" in str(error):
                return None
            raise
        return int(answer.model_spec.version.value)

    def labelled(self, name: str) -> list[VersionStatus]:
        """The versions of a model with their labels, oldest first."""
        labels = {label: self.label(name, label) for label in LABELS}
        return [
            VersionStatus(row.number, row.state, row.error, tuple(label for label in LABELS if labels[label] == number))
            for number, row in sorted(self.versions(name).items())
        ]


def _code_text(row: Any) -> str:
    return f"error {row.status.error_code}" if row.status.error_code else ""
