"""What one stack leaves for the other to check: data, a model trained on them, the texts that it reads.

    python -m tests.end_to_end.exchange FOLDER [--data DATA]

runs the pipeline on sample data (or on DATA, those of the other stack) and writes FOLDER/record.json.
`tests/current.sh` does that in both stacks; test_stacks.py compares.
"""

import argparse
import json
import sys
from pathlib import Path

import keras
import tensorflow as tf

from components.common.versions import offered
from components.tools.sample_data import generate
from htr_client import HtrClient
from pipeline import cli
from serving.version_directory import SETTINGS_FILE
from tests.end_to_end.test_pipeline import served

# Enough to change the base model that it starts from: test_stacks.py looks whether the epoch was kept.
SETTINGS = ["train.epochs=1", "train.batch_size=16", "gate.max_cer=null"]
IMAGES = 200


def read_images(workspace: Path, images: list[Path]) -> dict[str, tuple[str, float]]:
    """Text and confidence by the name of the image, from the embedded server of this stack through the client."""
    with served(workspace) as address, HtrClient(address) as client:
        results = list(client.transcribe_many(images))
    return {path.name: (result.text, result.confidence) for path, result in zip(images, results, strict=True)}


def examples(workspace: Path, step: str, channel: str):
    """Name of the split and example, of the newest output of a step."""
    newest = max((workspace / "pipeline" / step / channel).iterdir(), key=lambda path: int(path.name))
    for path in sorted(newest.glob("Split-*/*")):
        for record in tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator():
            yield path.parent.name.removeprefix("Split-"), tf.train.Example.FromString(record).features.feature


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    data, workspace = arguments.data or arguments.folder / "data", arguments.folder / "workspace"
    if not data.exists():
        generate(data, images=600, writers=40)
    settings = [f"--set={setting}" for setting in SETTINGS]
    code = cli.main(["run", "--data", str(data), "--workspace", str(workspace), *settings])
    if code:
        return code
    splits = {
        features["id"].bytes_list.value[0].decode(): split
        for split, features in examples(workspace, "HandwritingExampleGen", "examples")
    }
    classes = {
        features["id"].bytes_list.value[0].decode(): list(features["labels"].int64_list.value)
        for _, features in examples(workspace, "Transform", "transformed_examples")
    }
    (version,) = offered(str(workspace / "serving_model" / "htr"))
    described = json.loads(Path(version.path, SETTINGS_FILE).read_text("utf-8"))
    names = sorted(splits)[:: len(splits) // IMAGES][:IMAGES]
    record = {
        "stack": {"python": sys.version.split()[0], "tensorflow": tf.__version__, "keras": keras.__version__},
        "splits": splits,
        "classes": classes,
        "alphabet": described["alphabet"],
        "best_epoch": described["training"]["best_epoch"],
        "texts": read_images(workspace, [data.parent / name for name in names]),
    }
    (arguments.folder / "record.json").write_text(json.dumps(record, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
