"""Which model a candidate is compared with: one rule for all runners. No TFX or TensorFlow here.

The baseline is the model in service: the version under the label stable where labels are used, else the newest one
that is not withdrawn. Where no version is in service, it is the model that the training started from.
"""

from __future__ import annotations

from components.base_model import packing
from components.common import storage, version_settings
from components.common.in_service import in_service, metrics
from components.common.versions import model_at
from components.evaluator.verdict import Baseline
from components.trainer.settings import AUTO


class BaselineError(RuntimeError):
    """There is a model to compare with, but it cannot be used; the message says what to do."""


def find(model_dir: str, name: str, candidate: str, warm_start: str | None = None, off: str | None = None) -> Baseline:
    """Finds the baseline of a candidate.

    A candidate that is in service already is compared with what it was compared with before it was pushed: a run that
    is repeated gives the same verdict, and finds it cached.

    Args:
        model_dir: Directory of the numbered versions.
        name: Name of the model in the file of labels.
        candidate: Directory of the candidate's SavedModel.
        warm_start: The setting `train.warm_start` of its training, of a line finder `line_training.warm_start`.
        off: Reason for which the comparison is left out, if it is.

    Returns:
        The baseline, of kind "in_service", "warm_start", "base_model" or "none"; of kind "off" where it is left out.

    Raises:
        VersionError: The file of labels cannot be read.
        OSError: A model cannot be read.
    """
    current = in_service(model_dir, name)
    if current is not None:
        digest = storage.digest(current.path)
        if digest != storage.digest(candidate):
            if off:
                return Baseline("off", reason=off, passed_over=current.path)
            return Baseline("in_service", current.number, current.path, digest)
        noted = (metrics(model_dir, current.number) or {}).get("compared_with")
        if noted and (noted["kind"] == "off") == bool(off):
            return Baseline(**{**noted, "reason": off or noted["reason"]})
    if off:
        return Baseline("off", reason=off)
    if current is not None:
        return Baseline("none", reason="the model itself is in service")
    if warm_start == AUTO:
        settings = version_settings.read(candidate)
        base = packing.unpack(packing.preset_of(settings)) if settings.get("start", {}).get("base_model") else None
    else:
        base = model_at(warm_start) if warm_start else None
    if base is not None:
        return Baseline("base_model" if warm_start == AUTO else "warm_start", path=base, digest=storage.digest(base))
    return Baseline("none", reason="no version is in service yet")
