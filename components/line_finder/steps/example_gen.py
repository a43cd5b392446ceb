"""PageExampleGen: first step of the pipeline of pages, from PAGE XML or ALTO and images to tf.Examples in splits."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts

from components.common.artifacts import write_text
from components.common.fingerprint_driver import FingerprintDriver
from components.example_gen.outages import is_of_the_store, unreadable
from components.example_gen.quarantine import COUNTS_FILE, Quarantine, check_counts
from components.example_gen.record_sink import RecordSink
from components.example_gen.rejects import REJECTS_FILE, Rejected, as_rejected
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLITS
from components.example_gen.table import plain
from components.line_finder.data import load_page
from components.line_finder.examples import encode
from components.line_finder.page_plan import PagePlan, RejectedPage, plan_pages, stamps
from components.line_finder.settings import PagesConfig
from components.pages.files import PageFile
from htr_client.errors import ImageError
from htr_client.pages import PageError
from htr_client.tables import CsvWriter

_HEADER = ("page", "reason", "detail")


class PageExampleGenSpec(component_spec.ComponentSpec):
    """Outputs and settings of PageExampleGen."""

    PARAMETERS = {
        "data_config": component_spec.ExecutionParameter(type=str),
        "pages_config": component_spec.ExecutionParameter(type=str),
        "rejects_copy": component_spec.ExecutionParameter(type=str),
        # Set by the driver, so that a changed page is a changed input.
        "input_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS: dict[str, Any] = {}
    OUTPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": component_spec.ChannelParameter(type=Quarantine),
    }


def _settings(exec_properties: dict[str, Any]) -> tuple[DataConfig, PagesConfig]:
    data = DataConfig.model_validate_json(exec_properties["data_config"])
    return data, PagesConfig.model_validate_json(exec_properties["pages_config"])


class Driver(FingerprintDriver):
    """Takes a fingerprint of XML files and images."""

    def fingerprint(self, exec_properties: dict[str, Any]) -> str:
        """See `page_plan.stamps`."""
        digest = hashlib.sha256()
        for line in stamps(*_settings(exec_properties)):
            digest.update(os.fsencode(f"{line}\n"))
        return digest.hexdigest()


class _Examine(beam.DoFn):
    """A page's file and its split -> a list with its tf.Example in the output of the split, or "rejects"."""

    def __init__(self, max_pixels: int):
        self._max_pixels = max_pixels

    def process(self, element: tuple[PageFile, str]) -> Iterator[Any]:
        file, split = element
        try:
            yield beam.pvalue.TaggedOutput(split, [encode(load_page(file, self._max_pixels))])
        except (PageError, Rejected, ImageError, OSError) as error:
            if is_of_the_store(file.path, error):
                raise unreadable(f"The pages cannot be read: {error}.", error) from error
            rejected = as_rejected(error)
            yield beam.pvalue.TaggedOutput("rejects", RejectedPage(file.name, rejected.reason, rejected.detail))


class Executor(base_beam_executor.BaseBeamExecutor):
    """Reads, checks and writes all pages in one Beam pipeline."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the examples of each split, the rejected pages and the counts.

        Raises:
            DatasetError: There are no pages, a split has none, or a bucket fails.
            TooManyRejects: The share of lost pages exceeds `data.max_rejected`.
        """
        data, settings = _settings(exec_properties)
        plan = plan_pages(data, settings)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        quarantine = artifact_utils.get_single_uri(output_dict["quarantine"])
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        found = os.path.join(quarantine, "found.jsonl")
        with self._make_beam_pipeline() as pipeline:
            read = (
                pipeline
                | "Pages" >> beam.Create(plan.pages)
                | "Spread" >> beam.Reshuffle()
                | "Examine"
                >> beam.ParDo(_Examine(data.max_pixels)).with_outputs(*SPLITS, "rejects")
            )  # fmt: skip
            for split in SPLITS:
                sink = RecordSink(artifact_utils.get_split_uri([examples], split))
                _ = read[split] | f"Write[{split}]" >> beam.io.Write(sink)
            _ = (
                read["rejects"]
                | "ToJson" >> beam.Map(lambda one: json.dumps([one.page, one.reason, one.detail]))
                | "WriteRejects" >> beam.io.WriteToText(found, num_shards=1, shard_name_template="")
            )
        with fileio.open(found) as file:
            rejected = [*plan.rejected, *(RejectedPage(*json.loads(line)) for line in file.read().splitlines())]
        fileio.remove(found)
        counts = _counts(plan, rejected)
        write_text(os.path.join(quarantine, REJECTS_FILE), _as_csv(rejected))
        write_text(os.path.join(quarantine, COUNTS_FILE), json.dumps(counts, indent=1, sort_keys=True))
        write_text(exec_properties["rejects_copy"], _as_csv(rejected))  # the artifact is removed when this step fails
        lost = [(one.reason, f"{one.page}: {one.detail}") for one in rejected if one.lost]
        counts["rejected"] = collections.Counter(reason for reason, _ in lost)
        check_counts(counts, data, lost, exec_properties["rejects_copy"], row="page", sample="page")


def _counts(plan: PagePlan, rejected: list[RejectedPage]) -> dict[str, Any]:
    refused = {one.page for one in rejected}
    accepted = collections.Counter(split for file, split in plan.pages if file.name not in refused)
    return {
        "accepted": {split: accepted[split] for split in SPLITS},
        "rejected": dict(collections.Counter(one.reason for one in rejected)),
        "notes": [*plan.notes],
        "unnamed_documents": plan.unnamed,
    }


def _as_csv(rejected: list[RejectedPage]) -> str:
    text = io.StringIO()
    writer = CsvWriter(text)
    for row in (_HEADER, *((one.page, one.reason, one.detail) for one in rejected)):
        writer.writerow(row)
    return plain(text.getvalue())  # a detail may name a file whose name is not UTF-8


class PageExampleGen(base_beam_component.BaseBeamComponent):
    """From folders of pages to tf.Examples in the splits train, validation and eval, and a quarantine."""

    SPEC_CLASS = PageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(self, data: DataConfig, settings: PagesConfig, rejects_copy: str):
        """Creates the step.

        Args:
            data: Folders, shares of the splits, what is refused.
            settings: Settings that tell which pages belong together.
            rejects_copy: File that always holds the rejected pages of the last run, also when it failed.
        """
        super().__init__(
            PageExampleGenSpec(
                data_config=data.model_dump_json(),
                pages_config=settings.model_dump_json(include={"document"}),
                rejects_copy=rejects_copy,
                examples=channel_utils.as_channel([standard_artifacts.Examples()]),
                quarantine=channel_utils.as_channel([Quarantine()]),
            )
        )
