"""StatisticsGen without Beam: TFDV's own generators, one after the other over the examples of a split.

TFX's builds a Beam pipeline of hundreds of transforms for them. In one process that takes seconds before it begins, and
no less time for an example afterwards: a million examples are read in about a minute, where images have 100 kB in five.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from tensorflow_data_validation import StatsOptions
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_data_validation.statistics.generators.basic_stats_generator import BasicStatsGenerator
from tensorflow_data_validation.statistics.generators.top_k_uniques_sketch_stats_generator import (
    TopKUniquesSketchStatsGenerator,
)
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from tfx.components.statistics_gen.executor import DEFAULT_FILE_NAME
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts
from tfx.utils import io_utils
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.example_gen.examples import serialized
from components.example_validator.divergence import QUANTILES

_BATCH, _BATCH_BYTES = 1000, 16 * 2**20  # what is added at once: so many examples, or of so many bytes
# Different values of a feature up to which they are counted exactly; TFDV's own sketches begin to guess at 1,024.
_EXACT = 2**20


class StatisticsGenSpec(component_spec.ComponentSpec):
    """Inputs and output of StatisticsGen."""

    PARAMETERS: dict[str, Any] = {}
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
    }
    OUTPUTS = {"statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics)}


class Executor(base_executor.BaseExecutor):
    """Computes the statistics of every split."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes them to the files that TFX and TFDV look for."""
        del exec_properties
        (examples,), (statistics,) = input_dict["examples"], output_dict["statistics"]
        schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(input_dict["schema"][0].uri))
        statistics.split_names = examples.split_names
        statistics.span = examples.span
        for split in artifact_utils.decode_split_names(examples.split_names):
            found = statistics_of(serialized(examples.uri, split), schema)
            path = os.path.join(artifact_utils.get_split_uri([statistics], split), DEFAULT_FILE_NAME)
            io_utils.write_bytes_file(path, found.SerializeToString())


def statistics_of(examples: Iterator[bytes], schema: schema_pb2.Schema) -> statistics_pb2.DatasetFeatureStatisticsList:
    """What TFDV finds in examples, as `tfdv.GenerateStatistics` does, up to a million different values of a feature.

    Args:
        examples: Serialized tf.Examples; any number, they are not held in memory.
        schema: What is known of their features.
    """
    options = StatsOptions()
    generators = [
        BasicStatsGenerator(schema=schema, num_quantiles_histogram_buckets=QUANTILES),
        TopKUniquesSketchStatsGenerator(
            schema=schema, num_top_values=options.num_top_values,
            num_rank_histogram_buckets=options.num_rank_histogram_buckets,
            num_misragries_buckets=_EXACT, num_kmv_buckets=_EXACT,
        ),
    ]  # fmt: skip
    partial = [generator.create_accumulator() for generator in generators]
    decoder = ExamplesToRecordBatchDecoder()
    for batch in _batches(examples):
        records = decoder.DecodeBatch(batch)
        added = [generator.add_input(one, records) for generator, one in zip(generators, partial, strict=True)]
        partial = [generator.compact(one) for generator, one in zip(generators, added, strict=True)]
    return stats_impl.extract_statistics_output(partial, generators)


def _batches(examples: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for example in examples:
        batch.append(example)
        size += len(example)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class StatisticsGen(base_component.BaseComponent):
    """Statistics of all splits of the examples."""

    SPEC_CLASS = StatisticsGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, examples: Any, schema: Any):
        """Creates the step.

        Args:
            examples: Channel of ExampleGen.
            schema: Channel of the curated schema.
        """
        statistics = channel_utils.as_channel([standard_artifacts.ExampleStatistics()])
        super().__init__(StatisticsGenSpec(examples=examples, schema=schema, statistics=statistics))
