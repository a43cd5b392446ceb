"""Makes the imports of TFX, Beam and TensorFlow faster, for processes that are htr's own."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

# What TensorFlow and Keras import only if it is installed: for Google's TPUs, for models and plots that nobody asks of
# a process that transcribes. Together a third of the time that TensorFlow's import takes.
_EXTRAS = ("googleapiclient", "matplotlib", "sklearn")


def prepare() -> None:
    """Changes how this process imports; to be called before the first of those imports."""
    # They make hundreds of thousands of objects that stay; by default the collector goes through them again and again.
    gc.set_threshold(50_000)
    # TFX always imports the Kubernetes client, which imports this package too where it is installed, as for our tests,
    # and with it grammars that take two seconds to compile. Nothing here asks the client to validate manifests.
    sys.modules.setdefault("kubernetes_validate", None)  # type: ignore[arg-type]


@contextlib.contextmanager
def without_extras() -> Iterator[None]:
    """Imports TensorFlow, within the context, as if what it can do without were not installed."""
    hidden = [name for name in _EXTRAS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
