"""Exit codes of `htr`, and of a step that an orchestrator runs; what to say about an exception."""

from __future__ import annotations

import re

OK, ERROR, USAGE, NOT_BLESSED, TOO_MANY_REJECTS, DRIFT = 0, 1, 2, 3, 4, 5

# What ends a run with a message for people, and with which code. Names, since a step of Beam hands on no more of an
# exception, and since importing the classes would load TensorFlow. A test finds those of ours that are missing.
_CODES = {
    "DatasetError": USAGE, "DataAnomalies": USAGE, "ConfigError": USAGE, "NoStatistics": USAGE,
    "NotBlessed": NOT_BLESSED, "TooManyRejects": TOO_MANY_REJECTS, "DataDrift": DRIFT,
    "BaseModelError": ERROR, "BaselineError": ERROR, "BatchError": ERROR, "FloatingPointError": ERROR,
    "LineGateError": ERROR, "MetadataError": ERROR, "MissingInput": ERROR, "NoCredentials": ERROR, "NoImages": ERROR,
    "NotServable": ERROR, "NoVersionError": ERROR, "StoreError": ERROR, "VersionError": ERROR, "WarmStartError": ERROR,
    "WorkspaceBusy": ERROR,
}  # fmt: skip
_NAMED = re.compile(
    rf"^(?:RuntimeError: )?(?:[\w.]*\.)?(\w+Error|{'|'.join(_CODES)}): (.*?)(?: \[while running|$)", re.MULTILINE
)


def exit_code(name: str) -> int:
    """Exit code of a command or a run that failed with an exception of this class name."""
    return _CODES.get(name, ERROR)


def is_for_people(name: str) -> bool:
    """Whether exceptions of this class name say in their message what is wrong and what to do."""
    return name in _CODES


def root_message(error: BaseException) -> tuple[str, str]:
    """Class name and message of what really went wrong, also where Beam has turned an exception into text."""
    text = str(error)
    if type(error).__module__.startswith(("components.", "pipeline.")) and "[while running" not in text:
        return type(error).__name__, text
    found = _NAMED.findall(text)
    return found[-1] if found else (type(error).__name__, text)
