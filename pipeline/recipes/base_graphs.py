"""`make base-graphs`: the models that are shipped, exported by the code as it is now.

Their weights, texts, cards and figures stay; nothing is trained. For changes of what an export computes beside the
network, such as how files are decoded.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from components.base_model import packing
from components.common.console import console
from components.line_finder.export_again import export_again as export_line_finder_again
from components.trainer.export_again import export_again
from serving.version_directory import CARD_FILE, METRICS_FILE


def main() -> int:
    """Packs each model anew. Returns the exit code."""
    line_finders = [packing.PAGES] if packing.is_shipped(packing.PAGES) else []
    for preset in [*packing.presets(), *line_finders]:
        version, texts = Path(packing.unpack(preset)), packing.texts(preset)
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder, version.name)
            anew = export_line_finder_again if preset in line_finders else export_again
            anew(str(version), str(again))
            for file in (CARD_FILE, METRICS_FILE):
                if (beside := version.with_name(f"{version.name}.{file}")).exists():
                    shutil.copyfile(beside, again.with_name(beside.name))
            packed = packing.pack(str(again), preset, texts)
        console().print(f"{packed} has the graph of today")
    return 0


if __name__ == "__main__":
    sys.exit(main())
