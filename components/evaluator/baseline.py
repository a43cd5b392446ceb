"""Which model a candidate is compared with: one rule for all runners. No TFX or TensorFlow here.

The baseline is the model in service: the version under the label stable where labels are used, else the newest one
that is not withdrawn. Where no version is in service, it is the base of a warm start.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from components import storage
from components.pusher import versions

# Beside the model in the step's artifact, and in the Evaluator's.
NOTE_FILE = "baseline.json"


class BaselineError(RuntimeError):
    """There is a model to compare with, but it cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Baseline:
    """What a candidate is compared with.

    Attributes:
        kind: "in_service"; "warm_start", the model that the training started from; "none"; or "off", by
            `gate.baseline=none`.
        version: number of the version in service.
        path: directory of the SavedModel; empty where there is none.
        digest: of its files, so that other content is another baseline.
        reason: why there is none.
    """

    kind: Literal["in_service", "warm_start", "none", "off"]
    version: int | None = None
    path: str = ""
    digest: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.kind == "in_service":
            return f"version {self.version} (in service)"
        if self.kind == "warm_start":
            return f"the base of the warm start ({self.path})"
        return f"nothing ({'gate.baseline=none: ' if self.kind == 'off' else ''}{self.reason})"

    def as_json(self) -> str:
        """As text; `from_json` is the way back."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Baseline:
        """From what `as_json` made."""
        return cls(**json.loads(text))


def find(model_dir: str, name: str, candidate: str, warm_start: str | None = None) -> Baseline:
    """Finds the baseline of a candidate.

    A candidate that is in service already is compared with what it was compared with before it was pushed: a run that
    is repeated gives the same verdict, and finds it cached.

    Args:
        model_dir: directory of the numbered versions.
        name: of the model in the file of labels.
        candidate: directory of the candidate's SavedModel.
        warm_start: version that its training started from, or a directory of versions, of which the newest is taken.

    Returns:
        The baseline, of kind "in_service", "warm_start" or "none".

    Raises:
        VersionError: the file of labels cannot be read.
        OSError: a model cannot be read.
    """
    current = versions.served(model_dir, name)
    if current is not None:
        digest = storage.digest(current.path)
        if digest != storage.digest(candidate):
            return Baseline("in_service", current.number, current.path, digest)
        noted = (versions.metrics(model_dir, current.number) or {}).get("compared_with")
        if noted and noted["kind"] != "off":
            return Baseline(**noted)
        return Baseline("none", reason="the model itself is in service")
    base = versions.model_at(warm_start) if warm_start else None
    if base is not None:
        return Baseline("warm_start", path=base, digest=storage.digest(base))
    return Baseline("none", reason=f"no version is in service in {model_dir}")


def read_note(artifact_uri: str) -> Baseline | None:
    """The note in an artifact; None in one of an earlier release."""
    path = f"{artifact_uri}/{NOTE_FILE}"
    return Baseline.from_json(storage.read(path)) if storage.exists(path) else None
