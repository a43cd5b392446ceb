"""`make base-graphs`: the models that are shipped, exported by the code as it is now.

Their weights, texts, cards and figures stay; nothing is trained. For changes of what an export computes beside the
network, such as how files are decoded, and of the bonus that goes with the weight of a language model.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from components.base_model import packing
from components.common.console import console
from components.language.learning import BONUS_BY_WEIGHT
from components.line_finder.export_again import export_again as export_line_finder_again
from components.trainer.export_again import export_again
from htr_client.language import LanguageModel
from serving.version_directory import CARD_FILE, LANGUAGE_MODEL_FILE, METRICS_FILE


def main() -> int:
    """Packs each model anew. Returns the exit code."""
    line_finders = [packing.PAGES] if packing.is_shipped(packing.PAGES) else []
    for preset in [*packing.presets(), *line_finders]:
        version, texts = Path(packing.unpack(preset)), packing.texts(preset)
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder, version.name)
            anew = export_line_finder_again if preset in line_finders else export_again
            anew(str(version), str(again))
            _weigh_again(again / LANGUAGE_MODEL_FILE)
            for file in (CARD_FILE, METRICS_FILE):
                if (beside := version.with_name(f"{version.name}.{file}")).exists():
                    shutil.copyfile(beside, again.with_name(beside.name))
            packed = packing.pack(str(again), preset, texts)
        console().print(f"{packed} has the graph of today")
    return 0


def _weigh_again(file: Path) -> None:
    """Gives a version's language model, where it has one, the bonus that its weight has now."""
    if file.exists() and (content := file.read_bytes()):
        model = LanguageModel.from_bytes(content)
        file.write_bytes(model.weighed(model.weight, BONUS_BY_WEIGHT * model.weight, model.temperature).to_bytes())


if __name__ == "__main__":
    sys.exit(main())
