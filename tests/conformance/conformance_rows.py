"""Requests that TensorFlow Serving 2.16.1 refuses, as rows: how to ask, and the code and text that were measured there.

Where the embedded server deliberately answers otherwise, the row says how (`embedded`) and why (`reason`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import serving_toy as toy
from serving_client import Client

NODE = r"\n\t \[\[.*"  # the graph's nodes are named differently in every model
PNG = toy.png()
INVALID, NOT_FOUND = "INVALID_ARGUMENT", "NOT_FOUND"


@dataclass
class Row:
    name: str
    code: str
    message: str  # exact, or a regular expression if it starts with ^
    call: Callable[[Client], Any]
    embedded: str = ""
    reason: str = ""


def predict(inputs=None, change: Callable[[Any], None] | None = None, **spec: Any) -> Callable[[Client], Any]:
    def call(client: Client) -> Any:
        request = toy.predict_request({"image_bytes": [PNG]} if inputs is None else inputs, **spec)
        if change is not None:
            change(request)
        return client.predict(request)

    return call


def raw(**fields: Any) -> Callable[[Any], None]:
    """Replace the input by a hand-made TensorProto."""

    def change(request: Any) -> None:
        proto = request.inputs["image_bytes"]
        proto.Clear()
        shape = fields.pop("shape", None)
        for size in shape or ():
            proto.tensor_shape.dim.add(size=size)
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(proto, name).extend(value)
            else:
                setattr(proto, name, value)
        fields["shape"] = shape

    return change


def outputs(*names: str) -> Callable[[Any], None]:
    return lambda request: request.output_filter.extend(names)


RANK = dict(
    embedded=r"^input image_bytes has shape \[.*\], but the signature serving_default takes \[\?\]$",
    reason="shapes are checked against the signature before the graph runs, since some kernels abort the process "
    "on a wrong rank",
)


def check(row: Row, client: Client, embedded: bool) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        row.call(client)
    message = row.embedded if embedded and row.embedded else row.message
    details = failure.value.details() or ""
    assert failure.value.code().name == row.code, details
    if message.startswith("^"):
        assert re.match(message, details, re.DOTALL), details
    else:
        assert details == message
