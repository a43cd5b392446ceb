"""HandwritingExampleGen: the pipeline's first step, from CSV files and images to tf.Examples in splits."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.transforms.window import GlobalWindows
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts

from components.common.fingerprint_driver import FingerprintDriver
from components.example_gen import dataset
from components.example_gen.fingerprint import fingerprint
from components.example_gen.folders import find, find_tables
from components.example_gen.images import mend_notes
from components.example_gen.labels import length_band
from components.example_gen.plan import make_plan
from components.example_gen.quarantine import COUNTS_FILE, Quarantine, check_counts, listed, read_counts
from components.example_gen.record_sink import RecordSink
from components.example_gen.rejects import HEADER, REJECTS_FILE, Reject, as_csv_line
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLITS, SplitRule
from components.example_gen.table import Row, Table, read_together
from components.transform.settings import TransformConfig

_METRICS = "htr.ExampleGen"
_BYTES = 4 * 2**20  # of records in one element, but for a single record that is larger


class HandwritingExampleGenSpec(component_spec.ComponentSpec):
    """Inputs, outputs and settings of HandwritingExampleGen."""

    PARAMETERS = {
        "data_config": component_spec.ExecutionParameter(type=str),
        "transform_config": component_spec.ExecutionParameter(type=str),
        "rejects_copy": component_spec.ExecutionParameter(type=str, optional=True),
        # Set by the driver, so that a changed image is a changed input.
        "input_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS: dict[str, Any] = {}
    OUTPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": component_spec.ChannelParameter(type=Quarantine),
    }


class Driver(FingerprintDriver):
    """Takes a fingerprint of label files and images."""

    def fingerprint(self, exec_properties: dict[str, Any]) -> str:
        """See `fingerprint`."""
        tables, _ = find_tables(DataConfig.model_validate_json(exec_properties["data_config"]))
        return fingerprint(tables)


class _ReadRows(beam.DoFn):
    """Number of a table and lines of wanted rows -> lists of these rows, with the number."""

    def __init__(self, tables: list[Table]):
        self._tables = tables

    def process(
        self, element: tuple[int, frozenset[int] | None]
    ) -> Iterator[tuple[int, list[tuple[int, tuple[str, ...]]]]]:
        number, wanted = element
        # Beam's price is by element: single rows would cost more in Beam than in the functions below.
        for rows in read_together(self._tables[number], wanted):
            yield number, [(row.line, row.fields) for row in rows]  # Beam has fast coders for plain tuples


class _Examine(beam.DoFn):
    """Rows of a table -> lists of serialized tf.Examples in the output of their split, "rejects" and "counts"."""

    def __init__(self, tables: list[Table], splits: SplitRule, data_config: str, transform_config: str):
        self._tables, self._splits = tables, splits
        self._data_config, self._transform_config = data_config, transform_config

    def setup(self) -> None:
        self._data = DataConfig.model_validate_json(self._data_config)
        self._transform = TransformConfig.model_validate_json(self._transform_config)

    def start_bundle(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()

    def process(self, element: tuple[int, list[tuple[int, tuple[str, ...]]]]) -> Iterator[Any]:
        number, lines = element
        rows = [Row(self._tables[number], line, fields) for line, fields in lines]
        records: dict[str, list[bytes]] = collections.defaultdict(list)
        size = 0
        for result in dataset.examine_rows(rows, self._splits, self._data, self._transform):
            if isinstance(result, Reject):
                self._counts[f"rejected/{result.reason}"] += 1
                yield beam.pvalue.TaggedOutput("rejects", result)
                continue
            if result.mend:
                self._counts[f"mended/{result.mend}"] += 1
            if result.by_model:
                self._counts[f"by_model/{result.split}"] += 1
            records[result.split].append(encode(result))
            size += len(result.image)
            if size > _BYTES:
                yield from self._outputs(records)
                records, size = collections.defaultdict(list), 0
        yield from self._outputs(records)

    def _outputs(self, records: dict[str, list[bytes]]) -> Iterator[Any]:
        for split, some in records.items():
            self._counts[f"accepted/{split}"] += len(some)
            yield beam.pvalue.TaggedOutput(split, some)

    def finish_bundle(self) -> Iterator[Any]:
        for name, number in self._counts.items():
            beam.metrics.Metrics.counter(_METRICS, name.replace("/", "_")).inc(number)
        counts = GlobalWindows.windowed_value_at_end_of_window(self._counts)
        yield beam.pvalue.TaggedOutput("counts", counts)


def encode(sample: dataset.Sample) -> bytes:
    """Makes the serialized tf.Example of an accepted row; components/example_validator/schema.pbtxt describes it."""
    example = tf.train.Example()
    values: dict[str, bytes | int | float] = {
        "image": sample.image,
        "text": sample.text.encode(),
        "id": sample.id.encode(),
        "source": sample.source.encode(),
        "writer": sample.writer.encode(),
        "width": sample.width,
        "height": sample.height,
        "text_length": len(sample.text),
        "length_band": length_band(len(sample.text)).encode(),
        **sample.statistics,
    }
    for name, value in values.items():
        kind = "bytes_list" if isinstance(value, bytes) else "int64_list" if isinstance(value, int) else "float_list"
        getattr(example.features.feature[name], kind).value.append(value)
    return example.SerializeToString(deterministic=True)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads, checks and splits all rows in one Beam pipeline."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the examples of each split, the rejects and their counts.

        Raises:
            DatasetError: There is nothing to read, or a split has no images.
            TooManyRejects: The rejected share exceeds `data.max_rejected`.
        """
        data = DataConfig.model_validate_json(exec_properties["data_config"])
        tables, notes, passed_over = find(data)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        quarantine = artifact_utils.get_single_instance(output_dict["quarantine"])
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        plan = make_plan(tables, data, passed_over)
        lines = [(number, plan.lines(table)) for number, table in enumerate(tables)]
        known = {
            "left_out": plan.left_out, "split_by_writer": plan.splits.by_writer, "notes": [*notes, *plan.notes],
            "problems": [*plan.problems],
        }  # fmt: skip
        examine = _Examine(tables, plan.splits, exec_properties["data_config"], exec_properties["transform_config"])
        with self._make_beam_pipeline() as pipeline:
            checked = (
                pipeline
                | "Tables" >> beam.Create(lines)
                | "Rows" >> beam.ParDo(_ReadRows(tables))
                | "Spread" >> beam.Reshuffle()
                | "Examine" >> beam.ParDo(examine).with_outputs(*SPLITS, "rejects", "counts")
            )
            for split in SPLITS:
                sink = RecordSink(artifact_utils.get_split_uri([examples], split))
                _ = checked[split] | f"Write[{split}]" >> beam.io.Write(sink)
            _ = (
                checked["rejects"]
                | "Format" >> beam.Map(as_csv_line)
                | "WriteRejects"
                >> beam.io.WriteToText(
                    os.path.join(quarantine.uri, REJECTS_FILE),
                    num_shards=1, shard_name_template="", header=HEADER,
                )
            )  # fmt: skip
            _ = (
                checked["counts"]
                | "Count" >> beam.CombineGlobally(lambda counters: sum(counters, collections.Counter()))
                | "ToJson" >> beam.Map(lambda counter: json.dumps(_nested(counter, known), indent=1, sort_keys=True))
                | "WriteCounts"
                >> beam.io.WriteToText(os.path.join(quarantine.uri, COUNTS_FILE), num_shards=1, shard_name_template="")
            )
        counts = read_counts(quarantine.uri)
        if exec_properties.get("rejects_copy"):  # the artifact is removed when this step fails
            fileio.makedirs(os.path.dirname(exec_properties["rejects_copy"]))
            fileio.copy(os.path.join(quarantine.uri, REJECTS_FILE), exec_properties["rejects_copy"], overwrite=True)
        check_counts(counts, data, listed(quarantine.uri), exec_properties.get("rejects_copy"))


def _nested(counter: collections.Counter, known: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"accepted": dict.fromkeys(SPLITS, 0), "rejected": {}, "mended": {}, "by_model": {}}
    for key, count in counter.items():
        outcome, name = key.split("/")
        result[outcome][name] = count
    return result | known | {"notes": known["notes"] + mend_notes(result["mended"])}


class HandwritingExampleGen(base_beam_component.BaseBeamComponent):
    """From dataset folders to tf.Examples in the splits train, validation and eval, and a quarantine."""

    SPEC_CLASS = HandwritingExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self, data: DataConfig, transform: TransformConfig, rejects_copy: str | None = None, fingerprint: Any = None
    ):
        """Creates the step.

        Args:
            data: What to read and refuse.
            transform: Geometry of the image tensor, for the check of labels against frames.
            rejects_copy: File that always holds the rejects of the last run, also when it failed.
            fingerprint: Value of DataVersion's output, for runners that do not call the driver.
        """
        super().__init__(
            HandwritingExampleGenSpec(
                data_config=data.model_dump_json(),
                transform_config=transform.model_dump_json(),
                rejects_copy=rejects_copy,
                input_fingerprint=fingerprint,
                examples=channel_utils.as_channel([standard_artifacts.Examples()]),
                quarantine=channel_utils.as_channel([Quarantine()]),
            )
        )
