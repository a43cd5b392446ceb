"""A gRPC server that speaks TensorFlow Serving's protocol with a "model" whose answers are known.

A picture of a text is a row of blocks, four columns wide, whose grey level is the class: the model "reads" it without
any network, so that every result can be checked against the text that was drawn.
"""

import threading
import time
from concurrent import futures

import cv2
import grpc
import numpy as np

try:
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
except ImportError:  # in an environment without TensorFlow, where only the client is under test
    predict_pb2 = None

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
BLANK = len(ALPHABET)
POISON = b"poison"


def draw(text: str, height: int = 16) -> np.ndarray:
    """Grey picture of a text: a block a character, a white block after each."""
    levels = []
    for character in text:
        levels += [ALPHABET.index(character) * 9, 255]
    row = np.repeat(np.array(levels or [255], np.uint8), 4)
    return np.tile(row, (height, 1))


def png(text: str, height: int = 16) -> bytes:
    return cv2.imencode(".png", draw(text, height))[1].tobytes()


class FakeModel:
    """What the server knows and how it misbehaves; tests change its attributes."""

    def __init__(self) -> None:
        self.name = "htr"
        self.version = 1
        self.alphabets = {1: list(ALPHABET)}
        self.max_batch = 10_000
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.delay = 0.0
        self.as_content = False
        self.batches: list[int] = []
        self.metadata: list[dict[str, str]] = []
        self.seen: list[bytes] = []
        self.lock = threading.Lock()

    def predict(self, request, context):
        spec = request.model_spec
        with self.lock:
            self.metadata.append({key: value for key, value in context.invocation_metadata()})
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            context.abort(*failure)
        if spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        version = self.version
        if spec.HasField("version"):
            version = spec.version.value
            if version not in self.alphabets:
                message = f"Servable not found for request: Specific({spec.name}, {version})"
                context.abort(grpc.StatusCode.NOT_FOUND, message)
        elif spec.version_label and spec.version_label != "stable":
            message = f"Unrecognized servable version label: {spec.version_label}"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        response = type(self).response_class()
        response.model_spec.name = spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = spec.signature_name
        characters = self.alphabets[version]
        if spec.signature_name == "alphabet":
            count = len(request.inputs["query"].string_val)
            tensor = response.outputs["characters"]
            tensor.dtype = 7
            tensor.string_val.extend([character.encode() for character in characters] * count)
            for size in (count, len(characters)):
                tensor.tensor_shape.dim.add().size = size
            return response
        if spec.signature_name != "serving_default":
            message = f'Serving signature key "{spec.signature_name}" not found.'
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
        images = list(request.inputs["image_bytes"].string_val)
        if len(images) > self.max_batch:
            message = f"Task size {len(images)} is larger than maximum input batch size {self.max_batch}"
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        with self.lock:
            self.batches.append(len(images))
            self.seen += images
        time.sleep(self.delay)
        levels = []
        for image in images:
            grey = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
            if POISON in image or grey is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Invalid PNG data, size 200\n\t [[{{node DecodePng}}]]")
            # A picture without any variation stands for one that the graph refuses.
            levels.append(grey[grey.shape[0] // 2, 1::4] if grey.std() or grey[0, 0] != 77 else np.empty(0, np.uint8))
        width = max(map(len, levels))
        log_probs = np.full((len(images), width, len(characters) + 1), np.log(0.1 / len(characters)), np.float32)
        for row, found in enumerate(levels):
            classes = np.where(found > 248, len(characters), np.rint(found / 9).astype(int))
            log_probs[row, np.arange(len(found)), classes] = np.log(0.9)
        self._put(response.outputs["log_probs"], log_probs, 1, "float_val")
        self._put(response.outputs["frames"], np.array([len(found) for found in levels], np.int32), 3, "int_val")
        return response

    def _put(self, tensor, values, dtype, field):
        tensor.dtype = dtype
        for size in values.shape:
            tensor.tensor_shape.dim.add().size = size
        if self.as_content:
            tensor.tensor_content = values.tobytes()
        else:
            getattr(tensor, field).extend(values.ravel().tolist())

    def status(self, request, context):
        if request.model_spec.name != self.name:
            message = f"Could not find any versions of model {request.model_spec.name}"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        response = type(self).status_class()
        for version in sorted(self.alphabets, reverse=True):
            response.model_version_status.add(version=version, state=30)
        broken = response.model_version_status.add(version=99, state=50)
        broken.status.error_message = "Read less bytes than requested"
        return response


def _register(model: FakeModel, server: grpc.Server) -> None:
    if predict_pb2 is not None:
        FakeModel.response_class = predict_pb2.PredictResponse
        FakeModel.status_class = get_model_status_pb2.GetModelStatusResponse

        class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
            def Predict(self, request, context):
                return model.predict(request, context)

        class Status(model_service_pb2_grpc.ModelServiceServicer):
            def GetModelStatus(self, request, context):
                return model.status(request, context)

        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(), server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(), server)
        return
    from htr_client import messages

    FakeModel.response_class = messages.PredictResponse
    FakeModel.status_class = messages.GetModelStatusResponse

    def unary(behaviour, request_class):
        return grpc.unary_unary_rpc_method_handler(
            behaviour, request_class.FromString, lambda message: message.SerializeToString()
        )

    # Looked up at every call, since tests replace them.
    predict = {"Predict": unary(lambda *args: model.predict(*args), messages.PredictRequest)}
    status = {"GetModelStatus": unary(lambda *args: model.status(*args), messages.GetModelStatusRequest)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", predict),
            grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", status),
        )
    )


class FakeServer:
    """A FakeModel behind a port; can be stopped and started again on the same port."""

    def __init__(self, model: FakeModel | None = None, credentials: grpc.ServerCredentials | None = None) -> None:
        self.model = model or FakeModel()
        self._credentials = credentials
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def start(self) -> None:
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 * 2**20)]
        for _ in range(100):
            server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
            _register(self.model, server)
            try:
                if self._credentials is not None:
                    self.port = server.add_secure_port(f"localhost:{self.port}", self._credentials)
                else:
                    self.port = server.add_insecure_port(f"localhost:{self.port}")
                break
            except RuntimeError:  # the port is not free again yet
                time.sleep(0.05)
        server.start()
        self._server = server

    def stop(self, grace: float | None = None) -> None:
        self._server.stop(grace).wait()
