"""Exit codes of `htr`, and of a step that an orchestrator runs; what to say about an exception."""

from __future__ import annotations

import re

OK, ERROR, USAGE, NOT_BLESSED, TOO_MANY_REJECTS, DRIFT = 0, 1, 2, 3, 4, 5


def exit_code(name: str) -> int:
    """Exit code of a command or a run that failed with an exception of this class name."""
    codes = {
        "DatasetError": USAGE, "DataAnomalies": USAGE, "ConfigError": USAGE, "NoStatistics": USAGE,
        "NotBlessed": NOT_BLESSED, "TooManyRejects": TOO_MANY_REJECTS, "DataDrift": DRIFT,
    }  # fmt: skip
    return codes.get(name, ERROR)


def root_message(error: BaseException) -> tuple[str, str]:
    """Class name and message of what really went wrong, also where Beam has turned an exception into text."""
    text = str(error)
    if type(error).__module__.startswith(("components.", "pipeline.")) and "[while running" not in text:
        return type(error).__name__, text
    found = re.findall(
        r"^(?:RuntimeError: )?[\w.]*?(\w+(?:Error|Rejects|Anomalies|Drift)): (.*?)(?: \[while running|$)", text, re.M
    )
    return found[-1] if found else (type(error).__name__, text)
