"""Names of a version's decoders, as settings have them; options write best-path. No TFX or TensorFlow here."""

from __future__ import annotations

# What clients get by default, with the language model of the version where it has one; and the best path alone.
DEFAULT, BEST_PATH = DECODERS = ("default", "best_path")
