"""A small model with the contract's signatures, and ways to lay out versions of it."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np

from serving.runner import import_tensorflow

ALPHABET = "abcdefghijklmnopqrstuvwxyz '"
CLASSES = len(ALPHABET) + 1
HEIGHT, WIDTH = 32, 128
FRAMES = WIDTH // 4


def png(width: int = 128, height: int = 32, seed: int = 0) -> bytes:
    """A grey PNG without any imaging library."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width), dtype=np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def build(path: Path) -> Path:
    """Save the model; its decoding is not guarded, so that a bad image fails as in TensorFlow Serving."""
    tf = import_tensorflow()

    class Toy(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            rng = np.random.default_rng(1)
            self.kernel = tf.Variable(rng.normal(0, 0.1, (HEIGHT * 4, CLASSES)).astype("f"), name="kernel")
            self.filter = tf.Variable(rng.normal(0, 0.1, (3, 3, 1, 2)).astype("f"), name="filter")

        def decode(self, image_bytes):
            def one(data):
                image = tf.io.decode_image(data, channels=1, expand_animations=False)
                image = tf.image.resize(tf.cast(image, tf.float32) / 255.0, (HEIGHT, WIDTH))
                return tf.reshape(1.0 - image, (HEIGHT, WIDTH, 1))

            return tf.map_fn(one, image_bytes, fn_output_signature=tf.TensorSpec((HEIGHT, WIDTH, 1), tf.float32))

        def log_probs(self, image_bytes):
            images = self.decode(image_bytes)
            columns = tf.reshape(tf.transpose(images[..., 0], (0, 2, 1)), (-1, FRAMES, HEIGHT * 4))
            return tf.nn.log_softmax(columns @ self.kernel)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serve(self, image_bytes):
            result = self.log_probs(image_bytes)
            return {"log_probs": result, "frames": tf.fill([tf.shape(result)[0]], FRAMES)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def transcribe(self, image_bytes):
            best = tf.reduce_max(self.log_probs(image_bytes), axis=(1, 2))
            return {"text": tf.fill(tf.shape(best), "hand"), "confidence": tf.exp(best)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="query")])
        def alphabet(self, query):
            return {"characters": tf.tile(tf.constant([list(ALPHABET)]), [tf.shape(query)[0], 1])}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="rounds")])
        def burn(self, rounds):
            """Compute for a while: a request of known, adjustable cost."""
            size = 192
            start = tf.eye(size)
            _, last = tf.while_loop(
                lambda step, _: step < tf.reduce_sum(rounds),
                lambda step, value: (step + 1, tf.linalg.l2_normalize(value @ start + 0.1, axis=1)),
                (tf.constant(0), start),
                parallel_iterations=1,
            )
            return {"done": rounds + tf.cast(tf.reduce_sum(last) * 0.0, tf.int32)}

        @tf.function(input_signature=[tf.TensorSpec([None, HEIGHT, WIDTH, 1], tf.float32, name="image")])
        def tensor(self, image):
            return {"features": tf.reduce_mean(tf.nn.conv2d(image, self.filter, 1, "SAME"), axis=(1, 2))}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def evaluate(self, examples):
            count = tf.shape(examples)[0]
            return {"text": tf.fill([count, 1], "hand"), "confidence": tf.fill([count, 1], 1.0)}

    toy = Toy()
    signatures = {
        "serving_default": toy.serve,
        "transcribe": toy.transcribe,
        "alphabet": toy.alphabet,
        "evaluate": toy.evaluate,
        "burn": toy.burn,
        "tensor": toy.tensor,
    }
    tf.saved_model.save(toy, str(path), signatures=signatures)
    write_warmup(path, [[png()]])
    return path


def predict_request(inputs, signature: str = "", model: str = "htr", version: int | None = None, label: str = ""):
    """A PredictRequest from arrays or lists of bytes."""
    tf = import_tensorflow()
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request


def endless():
    """A request that takes much longer than any test."""
    return predict_request({"rounds": [10_000_000]}, "burn")


def write_warmup(path: Path, batches: list[list[bytes]]) -> None:
    """Write warm-up requests beside a saved model."""
    write_warmup_requests(path, [predict_request({"image_bytes": images}) for images in batches])


def write_warmup_requests(path: Path, requests: list) -> None:
    """Write any Predict requests as warm-up requests beside a saved model."""
    tf = import_tensorflow()
    from tensorflow_serving.apis import prediction_log_pb2

    (path / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def cached_model() -> Path:
    """The model, built once per machine boot and user: building it takes longer than most tests."""
    folder = (
        Path(tempfile.gettempdir()) / f"htr-serving-toy-{os.getuid()}-{zlib.crc32(Path(__file__).read_bytes()):08x}"
    )
    if not folder.exists():
        building = Path(tempfile.mkdtemp(dir=folder.parent))
        build(building / "model")
        try:
            (building / "model").rename(folder)
        except OSError:  # another test run was faster
            shutil.rmtree(building)
    return folder


def push(model: Path, base: Path, version: int, damage: str = "") -> Path:
    """Put a version under a base path as the pusher does, by one rename."""
    base.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".push-", dir=base)) / "model"
    shutil.copytree(model, temporary)
    if damage in ("no_variables", "no_variables_no_warmup"):
        shutil.rmtree(temporary / "variables")
        if damage.endswith("no_warmup"):
            shutil.rmtree(temporary / "assets.extra")
    elif damage == "corrupt_graph":
        (temporary / "saved_model.pb").write_bytes(b"\xff" * 500)
    elif damage == "truncated_variables":
        file = next((temporary / "variables").glob("variables.data*"))
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "bad_warmup":
        write_warmup(temporary, [[png()], [b"not an image"]])
    elif damage == "endless_warmup":
        write_warmup_requests(temporary, [endless()])
    elif damage == "no_graph":
        (temporary / "saved_model.pb").unlink()
    elif damage:
        raise ValueError(damage)
    temporary.rename(base / str(version))
    temporary.parent.rmdir()
    return base / str(version)
