"""What the processes of an orchestrator's steps have in common: pipelines they take, threads, and how they end."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from components.common.settings import ConfigError
from htr_client.cores import core_limit, usable_cores
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


def limit_threads(root: Path = Path("/")) -> None:
    """Gives TensorFlow as many threads as a container's limit has cores, unless the environment says how many.

    TensorFlow does not see the limit: with a thread for each core of the machine it would stand still for most of each
    tenth of a second.

    Args:
        root: Folder below which the kernel's files are.
    """
    if core_limit(root) is not None:
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ.setdefault(name, str(usable_cores(root)))


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
