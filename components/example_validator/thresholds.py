"""How far data may drift: comparators of the curated schema, and thresholds of other measures. No TFX here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

SCHEMA_FILE = Path(__file__).with_name("schema.pbtxt")
Kind = Literal["drift", "skew"]
OWN = {"confidence": 0.15, "characters": 0.15, "new_characters": 0.03, "rejected": 0.05}
"""Of measures that no feature of the schema is: divergence of confidence and of characters, and shares of rows."""

IN_WORDS = {
    "width": "width", "height": "height", "text_length": "length of the text", "paper_level": "grey level of the paper",
    "ink_level": "grey level of the ink", "ink_share": "share of dark pixels", "sharpness": "sharpness",
}  # fmt: skip
"""Measures that are features of the schema, in words."""


def override(schema: schema_pb2.Schema, overrides: Mapping[str, float]) -> None:
    """Gives some features of a schema other thresholds.

    Args:
        schema: The schema, which is changed.
        overrides: Jensen-Shannon divergence by feature; names without a comparator in the schema are passed over, since
            `drift.thresholds` also names measures that no feature has.
    """
    for feature in schema.feature:
        if feature.name in overrides and feature.HasField("drift_comparator"):
            for comparator in (feature.drift_comparator, feature.skew_comparator):
                comparator.jensen_shannon_divergence.threshold = overrides[feature.name]


def read(kind: Kind, overrides: Mapping[str, float]) -> dict[str, float]:
    """Thresholds by feature.

    Args:
        kind: "drift" between two spans of data, "skew" between training data and what a model is asked.
        overrides: Thresholds that win over those of the schema.
    """
    schema = text_format.Parse(SCHEMA_FILE.read_text(encoding="utf-8"), schema_pb2.Schema())
    override(schema, overrides)
    comparators = {
        feature.name: feature.drift_comparator if kind == "drift" else feature.skew_comparator
        for feature in schema.feature
        if feature.HasField(f"{kind}_comparator")
    }
    return {name: found.jensen_shannon_divergence.threshold for name, found in comparators.items()}
