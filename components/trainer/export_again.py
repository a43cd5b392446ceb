"""An exported version once more, with the graph of the code as it is now; nothing is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from components.trainer import export
from components.trainer.model import build
from components.trainer.settings import ModelConfig
from components.trainer.transfer import start_from
from components.transform.settings import TransformConfig
from serving.version_directory import LANGUAGE_MODEL_FILE, SETTINGS_FILE, WARMUP_FILE


def export_again(version: str, target: str) -> None:
    """Exports the weights of a version with today's code; settings and language model are the same.

    Args:
        version: Directory of the version.
        target: Directory of the new one.
    """
    content = Path(version, SETTINGS_FILE).read_text("utf-8")
    settings = json.loads(content)
    alphabet, transform = settings["alphabet"], TransformConfig.model_validate(settings["transform"])
    network = build(ModelConfig.model_validate(settings["model"]), len(alphabet) + 1, transform.height or 0)
    start_from(network, alphabet, version)
    served = export.ServedModel(network, alphabet, transform, settings["temperature"])
    sizes = [tf.io.decode_png(image).shape[:2] for image in warmup_images(version)]
    # Earlier releases put images of the data into versions.
    export.save(served, target, [export.drawn_image(*size) for size in sizes], "htr")
    Path(target, SETTINGS_FILE).write_text(content, "utf-8")
    if Path(version, LANGUAGE_MODEL_FILE).exists():  # earlier releases have none
        shutil.copyfile(Path(version, LANGUAGE_MODEL_FILE), Path(target, LANGUAGE_MODEL_FILE))


def warmup_images(version: str) -> list[bytes]:
    """The images of a version's largest warm-up request.

    Args:
        version: Directory of the version.

    Returns:
        Encoded images.
    """
    records = tf.data.TFRecordDataset(str(Path(version, WARMUP_FILE))).as_numpy_iterator()
    requests = [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]
    return max((list(request.inputs["image_bytes"].string_val) for request in requests), key=len)
