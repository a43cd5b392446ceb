"""Makes TFX, Beam and TensorFlow faster in what they do before any work, for processes that are htr's own."""

from __future__ import annotations

import atexit
import functools
import gc
import sys
from typing import Any


def prepare() -> None:
    """Changes how this process imports; to be called before the first of those imports."""
    # They make hundreds of thousands of objects that stay; by default the collector goes through them again and again.
    gc.set_threshold(50_000)
    # Nor at the end, which takes two seconds otherwise.
    atexit.register(gc.freeze)
    # TFX always imports the Kubernetes client, which imports this package too where it is installed, as for our tests,
    # and with it grammars that take two seconds to compile. Nothing here asks the client to validate manifests.
    sys.modules.setdefault("kubernetes_validate", None)  # type: ignore[arg-type]


def remember_signatures() -> None:
    """Has Beam look up the arguments of each method once; to be called after those imports.

    It does so for every method of a DoFn each time that it meets one, which takes a tenth of a small step.
    """
    from apache_beam.transforms import core

    look_up = core.get_function_args_defaults
    if hasattr(look_up, "__wrapped__"):  # done before
        return
    known: dict[Any, tuple[list[str], list[Any]]] = {}

    @functools.wraps(look_up)
    def remembered(function: Any) -> tuple[list[str], list[Any]]:
        method = getattr(function, "__func__", None)
        if method is None:
            return look_up(function)
        if method not in known:
            known[method] = look_up(function)
        names, defaults = known[method]
        return list(names), list(defaults)

    core.get_function_args_defaults = remembered
