"""A bare gRPC client for tests, and a load of several threads that records every answer."""

from __future__ import annotations

import threading
import time
from collections import Counter

import grpc
import pytest

from serving.runner import import_tensorflow

import_tensorflow()
from tensorflow_serving.apis import (  # noqa: E402
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import protos  # noqa: E402

TIMEOUT = 20


class Client:
    def __init__(self, address: str, credentials=None, options=()) -> None:
        # Every test its own connection: gRPC shares them between channels to the same address.
        options = (("grpc.use_local_subchannel_pool", 1), *options)
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, credentials, options)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request, timeout: float = TIMEOUT):
        return self.prediction.Predict(request, timeout=timeout)

    def metadata(self, name: str = "htr", fields=("signature_def",)):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        request.model_spec.name = name
        return self.prediction.GetModelMetadata(request, timeout=TIMEOUT)

    def status(self, name: str = "htr", version: int | None = None):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = name
        if version is not None:
            request.model_spec.version.value = version
        return self.model.GetModelStatus(request, timeout=TIMEOUT)

    def states(self, name: str = "htr") -> dict[int, int]:
        try:
            return {row.version: row.state for row in self.status(name).model_version_status}
        except grpc.RpcError:
            return {}

    def wait_state(self, version: int, state: int, name: str = "htr", timeout: float = 20) -> None:
        until = time.monotonic() + timeout
        while self.states(name).get(version) != state:
            assert time.monotonic() < until, f"version {version} not {state}: {self.states(name)}"
            time.sleep(0.02)

    def reload(self, configs, timeout: float = TIMEOUT):
        """`configs`: dicts with name, base_path, and optionally versions, latest, labels, platform."""
        request = model_management_pb2.ReloadConfigRequest()
        request.config.model_config_list.SetInParent()
        for config in configs:
            entry = request.config.model_config_list.config.add(
                name=config["name"],
                base_path=str(config["base_path"]),
                model_platform=config.get("platform", "tensorflow"),
            )
            if "versions" in config:
                entry.model_version_policy.specific.versions.extend(config["versions"])
            if "latest" in config:
                entry.model_version_policy.latest.num_versions = config["latest"]
            for label, version in config.get("labels", {}).items():
                entry.version_labels[label] = version
        return self.model.HandleReloadConfigRequest(request, timeout=timeout)

    def health(self, service: str = "") -> int:
        check = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        data = check(protos.HealthCheckRequest(service=service).SerializeToString(), timeout=TIMEOUT)
        return protos.HealthCheckResponse.FromString(data).status

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Load:
    """Threads that send one request after the other until stopped."""

    def __init__(self, address: str, request, threads: int = 4) -> None:
        self.codes: Counter[str] = Counter()
        self.versions: Counter[int] = Counter()
        self.errors: list[str] = []
        self._request = request
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(address,), daemon=True) for _ in range(threads)]

    def _run(self, address: str) -> None:
        with Client(address) as client:
            while not self._stop.is_set():
                try:
                    version = client.predict(self._request).model_spec.version.value
                    with self._lock:
                        self.codes["OK"] += 1
                        self.versions[version] += 1
                except grpc.RpcError as error:
                    with self._lock:
                        self.codes[error.code().name] += 1
                        self.errors.append(f"{error.code().name}: {error.details()}")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_version(self, version: int, timeout: float = 30) -> None:
        """Until only this version answers: 20 answers in a row by it alone."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            with self._lock:
                self.versions.clear()
            while sum(self.versions.values()) < 20 and time.monotonic() < until:
                time.sleep(0.01)
            if set(self.versions) == {version}:
                return
        raise AssertionError(f"version {version} does not answer alone: {self.versions}, {self.errors[:3]}")


def fails(call, *args, **kwargs) -> tuple[str, str]:
    """Code and text with which a call is refused."""
    with pytest.raises(grpc.RpcError) as failure:
        call(*args, **kwargs)
    return failure.value.code().name, failure.value.details()
