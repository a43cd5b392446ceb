"""A running model server, embedded or TensorFlow Serving, as whoever moves labels sees it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serving.model_config import KEPT_MODEL
from serving.rollout.labels import LABELS, RolloutError, Served, messages

if TYPE_CHECKING:
    from htr_client.tls import Tls

_SERVICE = "/tensorflow.serving.ModelService/"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_CALL_SECONDS = 30.0
# A machine that is off answers nothing, and must not hold up for long what the other servers are to do.
_FIRST_CALL_SECONDS = 10.0


class ServerError(RolloutError):
    """A server cannot be reached or refused a call.

    Attributes:
        code: Name of the gRPC status code.
        away: Whether the server could not be reached, or did not answer.
    """

    def __init__(self, message: str, code: str):
        super().__init__(message)
        self.code = code
        self.away = code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


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


def servers_at(addresses: Iterable[str], tls: Tls | None = None) -> list[Server]:
    """All servers behind addresses, each of which may be a name that stands for several.

    gRPC would connect to one of those, and perhaps to another one for the next call.

    Args:
        addresses: Addresses, host:port.
        tls: Encryption and identity; None for plain text.

    Returns:
        The servers, whose certificates are to hold the name that was given, or that of `tls`.
    """
    return [server for address in addresses for server in _behind(address, tls)]


def _behind(address: str, tls: Tls | None) -> list[Server]:
    from htr_client.network.addresses import split_address

    host, port = split_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # gRPC tells it, or knows a proxy that knows the name
        found = []
    families = {family for family, *_ in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6  # a server may have an address of each
    places = dict.fromkeys((str(place[0]), int(place[1])) for kind, _, _, _, place in found if kind == family)
    if len(places) < 2:
        return [Server(address, tls)]
    named = tls and replace(tls, server_name=tls.server_name or host)
    # Without a proxy, since the list of those to reach directly (no_proxy) holds names.
    return [Server(f"[{ip}]:{at}" if ":" in ip else f"{ip}:{at}", named, direct=True) for ip, at in places]


class Server:
    """One model server, embedded or TensorFlow Serving.

    Attributes:
        address: Address, host:port.
        kept: Models that the server has said to serve whatever it is told.
    """

    def __init__(self, address: str, tls: Tls | None = None, direct: bool = False):
        """Opens a connection when the first call is made.

        Args:
            address: Address, host:port.
            tls: Encryption and identity; None for plain text.
            direct: Whether to connect without a proxy, as to this machine.
        """
        import grpc

        from htr_client.network.endpoint import Endpoint

        self.address = address
        self._endpoint = Endpoint(address, tls, max_message_bytes=2**31 - 1, opentelemetry=False)
        self._answered = False
        self.kept: set[str] = set()
        # Not shared with other channels of the process, whose connection may be in a back-off.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        options += [("grpc.enable_http_proxy", 0)] * direct
        self._channel = self._endpoint.channel(grpc, address, options)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._channel.close()

    def _call(self, method: str, request: Any, response: Any, seconds: float = _CALL_SECONDS) -> Any:
        import grpc

        call = self._channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        seconds = seconds if self._answered else min(seconds, _FIRST_CALL_SECONDS)
        try:
            answer, ended = call.with_call(request, timeout=seconds)
        except grpc.RpcError as error:
            raise self._error(error, method.rpartition("/")[2], seconds) from None
        self._answered = True
        self.kept.update(value for key, value in ended.trailing_metadata() or () if key == KEPT_MODEL)
        return answer

    def _error(self, error: Any, method: str, seconds: float) -> ServerError:
        from htr_client.network.reach import NOBODY

        code = error.code().name
        if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            why = self._endpoint.failure(error, seconds)
            why.advice = why.advice.removeprefix(NOBODY).strip()  # a server is named already
            return ServerError(str(why), code)
        details = f": {error.details().rstrip('.')}" if error.details() else ""
        return ServerError(f"{self.address} answered {code} to {method}{details}.", code)

    def reload(self, config: Any, seconds: float = _CALL_SECONDS) -> None:
        """Makes this the server's whole configuration, and waits for models that are new in it.

        Args:
            config: ModelServerConfig.
            seconds: Seconds to wait at most.

        Raises:
            ServerError: The server cannot be reached or refused.
        """
        request = messages().ReloadConfigRequest()
        # The two sides may have loaded the descriptors apart.
        request.config.MergeFromString(config.SerializeToString())
        answer = self._call(_SERVICE + "HandleReloadConfigRequest", request, messages().ReloadConfigResponse, seconds)
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
                row.version, row.State.Name(row.state), row.status.error_message or _code_text(row)
            )
            for row in answer.model_version_status
        }

    def known(self, name: str) -> dict[int, VersionStatus]:
        """As `versions`; nothing where the server does not serve the model."""
        try:
            return self.versions(name)
        except ServerError as error:
            if error.code != "NOT_FOUND":
                raise
            return {}

    def served(self, name: str, labels: Iterable[str] = ()) -> Served:
        """What the server serves of a model, which is nothing where it does not know the model.

        Args:
            name: Name of the model.
            labels: Labels to ask for besides the usual ones.
        """
        rows = self.known(name)
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
