"""A signature of a model, and what a PredictRequest has to be to fit it: TensorFlow Serving's checks and texts."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving import tensors
from serving.status import invalid

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Input:
    """One input of a signature."""

    alias: str
    tensor: str
    dtype: int
    shape: tuple[int, ...] | None
    default: np.ndarray | None = None


@dataclass(frozen=True)
class Signature:
    """What a call needs to know of a SignatureDef."""

    name: str
    inputs: tuple[Input, ...]
    outputs: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def aliases(self) -> frozenset[str]:
        """Names of the inputs."""
        return frozenset(entry.alias for entry in self.inputs)

    @functools.cached_property
    def has_defaults(self) -> bool:
        """Whether a request may leave an input out."""
        return any(entry.default is not None for entry in self.inputs)


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def prepare_feeds(signature: Signature, inputs: Mapping[str, Any], max_bytes: int) -> dict[str, np.ndarray]:
    """Turns the inputs of a PredictRequest into feeds, with TensorFlow Serving's checks and messages.

    Args:
        signature: The signature called.
        inputs: Alias to TensorProto.
        max_bytes: Bound on the memory one tensor may take.

    Returns:
        Tensor name to array.

    Raises:
        ServingError: Wrong number or names of inputs, or a TensorProto that is none.
    """
    expected = signature.aliases
    if len(inputs) > len(expected) or (len(inputs) < len(expected) and not signature.has_defaults):
        sent = set(inputs)
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(expected)} "
            f"len({_braces(sent)}) != len({_braces(expected)}). "
            f"Sent extra: {_braces(sent - expected)}. Missing but required: {_braces(expected - sent)}."
        )
    feeds: dict[str, np.ndarray] = {}
    for entry in signature.inputs:
        if entry.alias in inputs:
            try:
                feeds[entry.tensor] = tensors.from_proto(inputs[entry.alias], max_bytes)
            except (tensors.TensorError, ValueError, OverflowError, TypeError) as error:
                raise invalid(f"tensor parsing error: {entry.alias}") from error
        elif entry.default is not None:
            feeds[entry.tensor] = entry.default
        else:
            defaults = ",".join(sorted(item.alias for item in signature.inputs if item.default is not None))
            raise invalid(
                f"Signature input alias: {entry.alias}(feed name: {entry.tensor}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {_braces(set(inputs))}, "
                f"or default input alias set: {defaults}"
            )
    return feeds


def select_outputs(signature: Signature, output_filter: Sequence[str]) -> dict[str, str]:
    """Returns alias to tensor name of the wanted outputs, all of them without a filter.

    Raises:
        ServingError: The filter names an unknown output, or one twice.
    """
    if not output_filter:
        return dict(signature.outputs)
    chosen: dict[str, str] = {}
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_braces(set(signature.outputs))}."
            )
        if alias in chosen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        chosen[alias] = signature.outputs[alias]
    return chosen


def check_shapes(signature: Signature, feeds: Mapping[str, np.ndarray]) -> None:
    """Refuses feeds whose shape the signature excludes.

    TensorFlow Serving does not look, and some kernels abort the whole process on a wrong rank.

    Raises:
        ServingError: A shape does not fit.
    """
    for entry in signature.inputs:
        array = feeds.get(entry.tensor)
        if array is None or entry.shape is None or tensors.number_of(array.dtype) != entry.dtype:
            continue  # a wrong type is refused by the session itself, with its own message
        fits = len(array.shape) == len(entry.shape) and all(
            declared < 0 or declared == actual for declared, actual in zip(entry.shape, array.shape, strict=True)
        )
        if not fits:
            raise invalid(
                f"input {entry.alias} has shape {list(array.shape)}, but the signature {signature.name} "
                f"takes {['?' if size < 0 else size for size in entry.shape]}".replace("'", "")
            )
