"""StatisticsGen finds what TFDV's Beam pipeline finds, however many batches it takes."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.types import artifact_utils, standard_artifacts

from components.example_validator import statistics_step
from components.example_validator.divergence import QUANTILES
from components.example_validator.thresholds import SCHEMA_FILE

pytestmark = pytest.mark.either_stack
SPLITS = {"train": 3000, "validation": 3, "eval": 90}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Examples of three splits with columns of all types, one of them sometimes missing; train lies in two files."""
    draw, made = np.random.default_rng(3), artifact(standard_artifacts.Examples, tmp_path_factory.mktemp("examples"))
    made.split_names, made.span = artifact_utils.encode_split_names(list(SPLITS)), 7
    for split, number in SPLITS.items():
        folder = f"{made.uri}/Split-{split}"
        tf.io.gfile.makedirs(folder)
        serialized = [example(draw, one).SerializeToString() for one in range(number)]
        for file, part in enumerate((serialized[: number // 2], serialized[number // 2 :])):
            with tf.io.TFRecordWriter(f"{folder}/data_tfrecord-{file:05}-of-00002.gz", "GZIP") as writer:
                for one in part:
                    writer.write(one)
    return made


def artifact(kind, folder):
    made = kind()
    made.uri = str(folder)
    return made


def example(draw, number):
    text = "".join(draw.choice(list("aeinrst"), draw.integers(1, 12)))
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[draw.bytes(draw.integers(50, 400))])),
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"images/{number}.png".encode()])),
        "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()])),
        "text_length": tf.train.Feature(int64_list=tf.train.Int64List(value=[len(text)])),
        "sharpness": tf.train.Feature(float_list=tf.train.FloatList(value=[draw.lognormal()])),
    }
    if number % 5:
        features["writer"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"w{number % 1499}".encode()]))
    return tf.train.Example(features=tf.train.Features(feature=features))


def computed(examples, folder):
    """What the step leaves."""
    kinds = (standard_artifacts.Schema, standard_artifacts.ExampleStatistics)
    schema, made = (artifact(kind, folder / kind.__name__) for kind in kinds)
    tf.io.gfile.makedirs(schema.uri)
    (folder / "Schema" / "schema.pbtxt").write_text(SCHEMA_FILE.read_text())
    statistics_step.Executor().Do({"examples": [examples], "schema": [schema]}, {"statistics": [made]}, {})
    return made


def agree(found, expected):
    """Whether statistics are the same, up to what depends on the batches in which quantiles were estimated."""
    (dataset,), (other,) = found.datasets, expected.datasets
    assert dataset.num_examples == other.num_examples
    of, expected_of = ({feature.path.step[0]: feature for feature in each.features} for each in (dataset, other))
    assert of.keys() == expected_of.keys() == {"image", "id", "text", "text_length", "sharpness", "writer"}
    for name, feature in of.items():
        numbers, expected_numbers = feature.num_stats, expected_of[name].num_stats
        for exact in ("min", "max", "num_zeros"):
            assert getattr(numbers, exact) == getattr(expected_numbers, exact), name
        for rounded in ("mean", "std_dev"):
            assert getattr(numbers, rounded) == pytest.approx(getattr(expected_numbers, rounded)), name
        assert numbers.median == pytest.approx(expected_numbers.median, rel=0.1), name
        assert len(numbers.histograms) == len(expected_numbers.histograms)
        for field in ("avg_length", "unique", "top_values", "rank_histogram"):
            assert getattr(feature.string_stats, field) == getattr(expected_of[name].string_stats, field), name
        kind = feature.WhichOneof("stats")
        common, expected_common = (getattr(one, kind).common_stats for one in (feature, expected_of[name]))
        for exact in ("num_non_missing", "num_missing"):
            assert getattr(common, exact) == getattr(expected_common, exact), name


def test_it_finds_what_a_beam_pipeline_finds(examples, tmp_path):
    made = computed(examples, tmp_path)
    assert (made.split_names, made.span) == (examples.split_names, 7)
    schema = text_format.Parse(SCHEMA_FILE.read_text(), schema_pb2.Schema())
    options = tfdv.StatsOptions(schema=schema, num_quantiles_histogram_buckets=QUANTILES)
    for split, number in SPLITS.items():
        expected = tfdv.generate_statistics_from_tfrecord(f"{examples.uri}/Split-{split}/*", stats_options=options)
        found = stats_artifact_utils.load_statistics(made, split).proto()
        agree(found, expected)
        assert found.datasets[0].num_examples == number


def test_batches_make_no_difference(examples, tmp_path, monkeypatch):
    whole = computed(examples, tmp_path / "whole")
    monkeypatch.setattr(statistics_step, "_BATCH", 64)
    monkeypatch.setattr(statistics_step, "_BATCH_BYTES", 8000)  # some thirty examples
    parts = computed(examples, tmp_path / "parts")
    for split in SPLITS:
        agree(*(stats_artifact_utils.load_statistics(made, split).proto() for made in (parts, whole)))
