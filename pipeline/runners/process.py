"""What the processes of an orchestrator's steps have in common: which pipelines they take, and how they end."""

from __future__ import annotations

import sys
import traceback

from components.common.settings import ConfigError
from htr_client.version import __version__
from pipeline.exit_codes import exit_code, root_message


def check_release(compiled_by: str | None, advice: str) -> None:
    """Refuses a pipeline of another release, whose settings, classes and base models may be others.

    Args:
        compiled_by: Version of this package that has compiled it; None before versions were written down.
        advice: What to do, as the rest of a sentence.

    Raises:
        ConfigError: It is not the version that is installed here.
    """
    if compiled_by != __version__:
        by = f"htr {compiled_by}" if compiled_by else "an earlier release of htr"
        raise ConfigError(f"The pipeline was compiled by {by}, and htr {__version__} is installed here: {advice}.")


def tell(error: Exception) -> int:
    """Prints the traceback of what has ended a step, and as the last line what is wrong.

    Returns:
        The exit code.
    """
    traceback.print_exception(error)
    sys.stderr.flush()
    name, message = root_message(error)
    print(" ".join(message.split()), flush=True)
    return exit_code(name)
