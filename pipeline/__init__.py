"""The pipeline: its definition and settings, and the ways to run it."""

import gc
import sys

# TFX, Beam and TensorFlow make hundreds of thousands of objects that stay; by default the collector goes through them
# again and again while they are imported.
gc.set_threshold(50_000)

# TFX always imports the Kubernetes client, which imports this package too where it is installed, as for our tests, and
# with it grammars that take two seconds to compile. Nothing here asks the client to validate manifests.
sys.modules.setdefault("kubernetes_validate", None)  # type: ignore[arg-type]
