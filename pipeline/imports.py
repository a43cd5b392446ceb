"""Makes the imports of TFX, Beam and TensorFlow faster, for processes that are htr's own."""

from __future__ import annotations

import gc
import sys


def prepare() -> None:
    """Changes how this process imports; to be called before the first of those imports."""
    # They make hundreds of thousands of objects that stay; by default the collector goes through them again and again.
    gc.set_threshold(50_000)
    # TFX always imports the Kubernetes client, which imports this package too where it is installed, as for our tests,
    # and with it grammars that take two seconds to compile. Nothing here asks the client to validate manifests.
    sys.modules.setdefault("kubernetes_validate", None)  # type: ignore[arg-type]
