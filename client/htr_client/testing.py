"""A server for tests of programs that use this client: in the same process, without TensorFlow and without a model.

It speaks TensorFlow Serving's gRPC protocol. Its "model" reads images of blocks, so that its answers are known:

    from htr_client import HtrClient
    from htr_client.testing import FakeServer, draw

    with FakeServer() as server, HtrClient(server.address) as client:
        assert client.transcribe(draw("hello")).text == "hello"
        server.model.failures.append((grpc.StatusCode.UNAVAILABLE, "restarting"))  # the next call fails, and is retried
        assert client.transcribe(draw("again")).text == "again"
"""

import threading
import time
from concurrent import futures
from types import TracebackType
from typing import Any

import cv2
import grpc
import numpy as np

from htr_client import messages
from htr_client.model_facts import LINE_FINDER
from htr_client.pages.reading import SIGNATURE

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_COLUMNS = 4  # of a block, which is what the model sees as a frame
_STEP = 9  # grey levels from one letter to the next
_WHITE = 248
_CERTAINTY = 0.9


def draw(text: str, height: int = 16) -> np.ndarray:
    """An image that the fake model transcribes.

    Args:
        text: Letters of `ALPHABET`.
        height: Height in pixels.

    Returns:
        uint8 [height, 8 * len(text)]: for each letter a block of its grey level and a white one.

    Raises:
        ValueError: When the text has other characters.
    """
    if others := sorted(set(text) - set(ALPHABET)):
        raise ValueError(f"the fake model knows the letters {ALPHABET} only, not {''.join(others)!r}")
    levels: list[int] = []
    for character in text:
        levels += [ALPHABET.index(character) * _STEP, 255]
    return np.tile(np.repeat(np.array(levels or [255], np.uint8), _COLUMNS), (height, 1))


def png(text: str, height: int = 16) -> bytes:
    """The image of `draw` as a PNG file."""
    return cv2.imencode(".png", draw(text, height))[1].tobytes()


def find_bars(page: bytes) -> tuple[np.ndarray, float]:
    """What the fake line finder says of a page: each dark bar is a line that stands on the bar's lower edge.

    Args:
        page: PNG or JPEG.

    Returns:
        Maps uint8 [rows, columns, 3] at half the size of the page, and their scale, as `htr_client.pages` takes them.
    """
    grey = cv2.imdecode(np.frombuffer(page, np.uint8), cv2.IMREAD_GRAYSCALE)
    body = cv2.resize((grey < 128).astype(np.uint8) * 255, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    baseline = np.zeros_like(body)
    edge = (body[:-1] > 0) & (body[1:] == 0)
    baseline[:-1][edge] = 255
    baseline[:-2][edge[1:]] = 255
    return np.stack([baseline, body, np.zeros_like(body)], -1), 0.5


class FakeModel:
    """What the server knows and how it misbehaves; tests change the attributes.

    Beside the model it has a line finder, `find_bars`.

    Attributes:
        name: Name of the model; others are not found.
        version: Version that answers when none is asked for; the label "stable" means it too.
        alphabets: Characters by version; these versions exist.
        language_models: Bytes of language models by version, empty for a version without one; a version that is not
            among them is of an earlier release, which lacks the signature.
        max_batch: Larger batches are refused.
        failures: Status and details of the next calls to Predict, which fail; the first comes first.
        delay: Seconds that each answer takes.
        as_content: Answers hold packed bytes instead of typed values.
        poison: An image whose file holds these bytes is refused, with its whole batch.
        has_line_finder: Whether the server has a line finder.
        batches: Sizes of the batches so far.
        metadata: Metadata of the calls so far.
        seen: Files of the images so far.
    """

    def __init__(self) -> None:
        self.name = "htr"
        self.version = 1
        self.alphabets = {1: list(ALPHABET)}
        self.language_models: dict[int, bytes] = {1: b""}
        self.max_batch = 10_000
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.delay = 0.0
        self.as_content = False
        self.poison = b"poison"
        self.has_line_finder = True
        self.batches: list[int] = []
        self.metadata: list[dict[str, str]] = []
        self.seen: list[bytes] = []
        self._lock = threading.Lock()

    def predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answers a PredictRequest as TensorFlow Serving would."""
        spec = request.model_spec
        with self._lock:
            self.metadata.append({key: value for key, value in context.invocation_metadata()})
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            context.abort(*failure)
        response = messages.PredictResponse()
        if spec.name == LINE_FINDER and spec.signature_name == SIGNATURE and self.has_line_finder:
            maps, scale = find_bars(request.inputs["image_bytes"].string_val[0])
            self._put(response.outputs["maps"], maps[None], messages.DT_UINT8, "int_val")
            self._put(response.outputs["scale"], np.array([scale], np.float32), messages.DT_FLOAT, "float_val")
            return response
        version = self._version(spec, context)
        response.model_spec.name, response.model_spec.signature_name = spec.name, spec.signature_name
        response.model_spec.version.value = version
        characters = self.alphabets[version]
        if spec.signature_name == "alphabet":
            count = len(request.inputs["query"].string_val)
            tensor = response.outputs["characters"]
            tensor.dtype = messages.DT_STRING
            tensor.string_val.extend([character.encode() for character in characters] * count)
            for size in (count, len(characters)):
                tensor.tensor_shape.dim.add().size = size
        elif spec.signature_name == "language_model" and version in self.language_models:
            tensor = response.outputs["model_bytes"]
            tensor.dtype = messages.DT_STRING
            tensor.string_val.extend([self.language_models[version]] * len(request.inputs["query"].string_val))
            tensor.tensor_shape.dim.add().size = len(tensor.string_val)
        elif spec.signature_name == "serving_default":
            log_probs, frames = self._read(list(request.inputs["image_bytes"].string_val), len(characters), context)
            self._put(response.outputs["log_probs"], log_probs, messages.DT_FLOAT, "float_val")
            self._put(response.outputs["frames"], frames, messages.DT_INT32, "int_val")
        else:
            message = f'Serving signature key "{spec.signature_name}" not found.'
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
        return response

    def status(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answers a GetModelStatusRequest; beside the versions that exist, 99 could not be loaded."""
        if request.model_spec.name == LINE_FINDER and self.has_line_finder:
            response = messages.GetModelStatusResponse()
            response.model_version_status.add(version=1, state=30)
            return response
        if request.model_spec.name != self.name:
            message = f"Could not find any versions of model {request.model_spec.name}"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        response = messages.GetModelStatusResponse()
        for version in sorted(self.alphabets, reverse=True):
            response.model_version_status.add(version=version, state=30)
        broken = response.model_version_status.add(version=99, state=50)
        broken.status.error_message = "Read less bytes than requested"
        return response

    def _version(self, spec: Any, context: grpc.ServicerContext) -> int:
        if spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        if spec.HasField("version"):
            version: int = spec.version.value
            if version not in self.alphabets:
                message = f"Servable not found for request: Specific({spec.name}, {version})"
                context.abort(grpc.StatusCode.NOT_FOUND, message)
            return version
        if spec.version_label and spec.version_label != "stable":
            message = f"Unrecognized servable version label: {spec.version_label}"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        return self.version

    def _read(self, images: list[bytes], blank: int, context: grpc.ServicerContext) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities float32 [N, T, blank + 1] and frames int32 [N] of encoded images."""
        if len(images) > self.max_batch:
            message = f"Task size {len(images)} is larger than maximum input batch size {self.max_batch}"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        with self._lock:
            self.batches.append(len(images))
            self.seen += images
        time.sleep(self.delay)
        levels = []
        for image in images:
            grey = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
            if self.poison in image or grey is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Invalid PNG data, size 200\n\t [[{{node DecodePng}}]]")
            # All of one certain grey stands for an image that the serving graph cannot decode: it gets no frames.
            undecodable = (grey == 77).all()
            levels.append(np.empty(0, np.uint8) if undecodable else grey[grey.shape[0] // 2, 1::_COLUMNS])
        log_probs = np.full(
            (len(images), max(map(len, levels)), blank + 1), np.log((1 - _CERTAINTY) / blank), np.float32
        )
        for row, found in enumerate(levels):
            letters = np.minimum(np.rint(found / _STEP).astype(int), blank - 1)
            classes = np.where(found > _WHITE, blank, letters)
            # Of the other letters those with neighbouring levels are more probable.
            others = 0.5 ** np.abs(classes[:, None] - np.arange(blank + 1)) * (classes[:, None] < blank) + 0.02
            others[np.arange(len(found)), classes] = 0.0
            others *= (1 - _CERTAINTY) / others.sum(axis=1, keepdims=True)
            others[np.arange(len(found)), classes] = _CERTAINTY
            log_probs[row, : len(found)] = np.log(others)
        return log_probs, np.array([len(found) for found in levels], np.int32)

    def _put(self, tensor: Any, values: np.ndarray, dtype: int, field: str) -> None:
        tensor.dtype = dtype
        for size in values.shape:
            tensor.tensor_shape.dim.add().size = size
        if self.as_content:
            tensor.tensor_content = values.tobytes()
        else:
            getattr(tensor, field).extend(values.ravel().tolist())


class FakeServer:
    """A `FakeModel` behind a port of this machine; runs until `stop`, and can be started again on the same port.

    Args:
        model: What answers; by default a new one.
        credentials: Credentials for encrypted connections.

    Attributes:
        model: What answers.
        port: Port that it listens on.
    """

    def __init__(self, model: FakeModel | None = None, credentials: grpc.ServerCredentials | None = None) -> None:
        self.model = model or FakeModel()
        self.port = 0
        self._credentials = credentials
        self.start()

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Host and port, as clients want it."""
        return f"localhost:{self.port}"

    def start(self) -> None:
        """Starts listening; the constructor does so too.

        Raises:
            OSError: The port that it had before is taken for five seconds and more.
        """
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 * 2**20)]
        for _ in range(100):
            self._server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
            self._register()
            try:
                if self._credentials is not None:
                    self.port = self._server.add_secure_port(self.address, self._credentials)
                else:
                    self.port = self._server.add_insecure_port(self.address)
                break
            except RuntimeError:  # the port is not free again yet
                time.sleep(0.05)
        else:
            raise OSError(f"{self.address} is not free: something else listens there")
        self._server.start()

    def stop(self, grace: float | None = None) -> None:
        """Stops listening.

        Args:
            grace: Seconds for calls under way to end; None cuts them off.
        """
        self._server.stop(grace).wait()

    def _register(self) -> None:
        def unary(behaviour: Any, request: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                behaviour, request.FromString, lambda message: message.SerializeToString()
            )

        # The model's methods are looked up at every call, since tests may replace them.
        predict = unary(lambda *call: self.model.predict(*call), messages.PredictRequest)
        status = unary(lambda *call: self.model.status(*call), messages.GetModelStatusRequest)
        services = {
            "tensorflow.serving.PredictionService": {"Predict": predict},
            "tensorflow.serving.ModelService": {"GetModelStatus": status},
        }
        self._server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())
        )
