"""Exit codes of `htr`, and of a step that an orchestrator runs."""

from __future__ import annotations

OK, ERROR, USAGE, NOT_BLESSED, TOO_MANY_REJECTS, DRIFT = 0, 1, 2, 3, 4, 5


def exit_code(name: str) -> int:
    """Exit code of a run that failed with an exception of this class name."""
    codes = {
        "DatasetError": USAGE, "ConfigError": USAGE, "NotBlessed": NOT_BLESSED, "TooManyRejects": TOO_MANY_REJECTS,
        "DataDrift": DRIFT,
    }  # fmt: skip
    return codes.get(name, ERROR)
