"""The pipeline: its definition and settings, and the ways to run it."""

import sys

# TFX always imports the Kubernetes client, which imports this package too where it is installed, as for our tests, and
# with it grammars that take two seconds to compile. Nothing here asks the client to validate manifests.
sys.modules.setdefault("kubernetes_validate", None)  # type: ignore[arg-type]
