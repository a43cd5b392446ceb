"""`make base-model`: the models that are shipped, trained from rendered and real handwriting.

Everything lies in one folder: rendered images, chosen rows of the real sets, a workspace for each round of each preset.
The command can be interrupted at any time; run again it goes on, training included. A round that has pushed its version
is over: to train it anew, remove its workspace.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from components.base_model import packing
from components.common.console import announced, console
from components.common.folders import made_whole
from components.common.versions import offered
from components.common.words import counted
from components.example_gen.examples import records
from components.example_gen.settings import DataConfig
from components.example_gen.splits import assign_split
from components.tools.base_data.capitals.letters import cut_capitals
from components.tools.base_data.capitals.words import write_capitals
from components.tools.base_data.line_composing import write_composed
from components.tools.base_data.line_cutting import write_lines
from components.tools.base_data.rendered_text.dataset import write_dataset
from components.tools.base_data.rendered_text.forms import on_form
from components.tools.base_data.rendered_text.texts import draw_entries, draw_texts, with_every_character
from components.tools.base_data.word_cutting import write_words
from components.tools.dataset_folder import COLUMNS, IMAGES_FOLDER, LABELS_FILE, whole_table
from components.trainer.settings import TrainConfig
from pipeline import cli
from pipeline.recipes.rounds import RECIPES, Real, Rendered, Round

_LANGUAGE_MEGABYTES = {"line": 0.75, "word": 0.5}  # of what all base models may take together
_ENTRIES_SEED, _ENTRY_LENGTH = 7, 18
_IMAGES_OF_A_LINE = 2  # that is cut out of a page, with other margins
LONGEST_ASPECT = 24.0  # of rendered images: what the preset `line` holds (1600 x 64)


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the data, trains, and packs the result into the package. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make base-model", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the folders of the real sets")
    parser.add_argument("--folder", type=Path, default=Path("base-model"), help="for everything that is made")
    parser.add_argument("--preset", choices=list(RECIPES), action="append", help="all of them if not given")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="other settings of the run")
    given = parser.parse_args(arguments)
    for preset in given.preset or RECIPES:
        start = None
        for number, one in enumerate(RECIPES[preset], start=1):
            workspace = given.folder / (preset if number == 1 else f"{preset}-{number}")
            models = str(workspace / "serving_model" / "htr")
            if not offered(models):
                earlier = [rendered for before in RECIPES[preset][: number - 1] for rendered in before.rendered]
                code = _train(preset, one, workspace, start, earlier, given)
                if code:
                    return code
            start = offered(models)[-1].path
        packed = packing.pack(str(start), preset, _texts(workspace))
        console().print(f"{packed} is the new base model for transform.preset={preset}")
    return 0


def _render(rendered: Rendered, base: Path) -> Path:
    """The folder of a rendered set, made if it is not there; an unfinished one is made again."""
    folder = base / rendered.name
    if not folder.exists():
        told = f"Rendering {rendered.images} images of handwriting ({rendered.name})"
        with announced(told), made_whole(folder) as target:
            draw = draw_entries if rendered.forms else draw_texts
            texts = list(draw(rendered.images, rendered.seed, rendered.characters))
            every = with_every_character(texts, rendered.seed, rendered.least)
            write_dataset(target, every, seed=rendered.seed, longest=LONGEST_ASPECT, forms=rendered.forms)
    return folder


def choose(real: Real, data: Path, base: Path) -> Path:
    """The folder of a real set, or one with what is taken of it, the same each time.

    Args:
        real: The set, and what is taken of it.
        data: Folder that holds the sets, and in `pages` those of the pages of some, named without "-lines".
        base: Folder below which what is chosen is written.
    """
    source = data / real.name
    if real.share == 1.0 and real.made == "rows":
        return source
    name = real.name if real.share == 1.0 else f"{real.name}-{real.part + 1}"
    # Another model would find other words and letters.
    suffix, make = {
        "rows": ("", _copy),
        "words": ("-words-{model}", _cut),
        "capitals": ("-capitals-{images}-{model}", _write_in_capitals),
        "composed": ("-composed-{images}-{model}", _compose),
        "pages": ("-pages", _cut_anew),
    }[real.made]
    folder = base / (name + suffix.format(images=real.images, model=str(packing.release("line"))[:8]))
    if folder.exists():
        return folder
    rows = [row for row in rows_of(source) if int(_draw(row["filename"]) / real.share) == real.part]
    with made_whole(folder) as target:
        make(rows, source, target, real.images)
    return folder


def _copy(rows: Sequence[dict[str, str]], source: Path, target: Path, _: int) -> None:
    """Copies rows of a set with their images."""
    (target / IMAGES_FOLDER).mkdir(parents=True)
    with whole_table(target / LABELS_FILE, COLUMNS) as write:
        for row in rows:
            shutil.copyfile(source / row["filename"], target / row["filename"])
            write(row[column] for column in COLUMNS)


def _cut(rows: Sequence[dict[str, str]], source: Path, target: Path, _: int) -> None:
    """Cuts out the words of lines."""
    with announced(f"Cutting words out of {len(rows)} lines ({source.name})"):
        counts = write_words(rows, source, packing.unpack("line"), target, seed=0)
    console().print(
        f"{source.name}: {counted(counts.written, 'word')}; left out: {counts.unsure} that the model does not find in "
        f"their lines, and {counted(counts.lines_left_out, 'line')} of which it cannot write the label"
    )


def _cut_anew(rows: Sequence[dict[str, str]], source: Path, target: Path, _: int) -> None:
    """Cuts lines out of pages; each page is by the writer of its lines among these rows, whose files have its name."""
    writers = {re.sub(r"_l\d+$", "", Path(row["filename"]).stem): row["writer"] for row in rows}

    def writer_of(page: str) -> str | None:
        name = page.partition("_")[2]  # after that of the set
        return next((writer for there, writer in writers.items() if there.endswith(name)), None)

    pages = source.parent / "pages" / source.name.removesuffix("-lines")
    with announced(f"Cutting lines out of pages ({pages.name})"):
        counts = write_lines(pages, writer_of, target, _IMAGES_OF_A_LINE, seed=0)
    console().print(
        f"{pages.name}: {counted(counts.written, 'image')} of lines; left out: {counted(counts.left_out, 'line')} "
        f"without text or usable outline, {counted(counts.pages_left_out, 'page')} of which there is no other line"
    )


def _compose(rows: Sequence[dict[str, str]], source: Path, target: Path, images: int) -> None:
    """Composes lines of words that are cut out of lines."""
    with announced(f"Composing lines of the words of {len(rows)} lines ({source.name})"):
        counts = write_composed(rows, source, packing.unpack("line"), target, images, seed=0)
    console().print(
        f"{source.name}: {counted(counts.written, 'line')} composed of {counted(counts.words, 'word')}; left out: "
        f"{counts.unsure} that the model does not find in their lines"
    )


def _write_in_capitals(rows: Sequence[dict[str, str]], source: Path, target: Path, images: int) -> None:
    """Puts words in capitals together from letters; writers of different splits have none of each other's."""
    with announced(f"Cutting capital letters out of {len(rows)} images ({source.name})"):
        letters = cut_capitals(rows, source, packing.unpack("line"))
        texts = draw_entries(images, _ENTRIES_SEED, _ENTRY_LENGTH)
        counts = write_capitals(letters, texts, target, 0, _split, on_form)
    console().print(
        f"{source.name}: {counted(sum(map(len, letters.values())), 'capital letter')} and "
        f"{counted(counts.written, 'word')} from them; left out: {counts.left_out} for whose letters there are none"
    )


def _split(writer: str) -> str:
    """The split of a writer in a run with the default fractions."""
    return assign_split(None, writer, frozenset(), DataConfig())


def _draw(filename: str) -> float:
    return hashlib.sha256(filename.encode()).digest()[0] / 256


def _write_texts(sets: Sequence[Rendered], base: Path, file: Path) -> None:
    """Writes the texts of rendered sets, one a line."""
    texts = (row["text"] for rendered in sets for row in rows_of(base / rendered.name))
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def _texts(workspace: Path) -> list[str]:
    """What the language model of a round learnt from: the labels of its training split, and `_write_texts`'s file."""
    found = (workspace / "pipeline" / "HandwritingExampleGen" / "examples").iterdir()
    examples = max(found, key=lambda artifact: int(artifact.name))
    labels = [example["text"] for example in records(str(examples), "train")]
    return labels + workspace.with_suffix(".txt").read_text("utf-8").splitlines()


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of a set's table.

    Args:
        folder: The set.
    """
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _train(
    preset: str,
    one: Round,
    workspace: Path,
    start: str | None,
    earlier: Sequence[Rendered],
    given: argparse.Namespace,
) -> int:
    # The language model learns from the texts of earlier rounds, too, which cost nothing more.
    texts = workspace.with_suffix(".txt")
    _write_texts(earlier, given.folder, texts)
    drawn = [_render(rendered, given.folder) for rendered in one.rendered]
    written = [choose(real, given.data, given.folder) for real in one.real]
    styles, people = (len({row["writer"] for folder in part for row in rows_of(folder)}) for part in (drawn, written))
    credits = "; ".join(dict.fromkeys(real.credit for real in one.real))
    settings = {
        "workspace": str(workspace),
        "data": {"paths": [str(folder) for folder in (*drawn, *written)]},
        "transform": {"preset": preset},
        "model": {"softening": one.softening},
        "train": {
            "warm_start": start or "none",
            "learning_rate": one.learning_rate,
            "epochs": one.epochs,
            "augment": one.augment,
            "augmentations": [*TrainConfig().augmentations, *one.augmentations],
            "start_share": one.start_share,
            "clean_statistics": one.clean_statistics,
            "start_share_checked": False,  # it is for sources that validation does not have
            "bfloat16": True,
            "patience": one.epochs,  # the last epochs, at a low rate, are the best ones
            "shuffle_buffer": 24000,  # all of them: rendered and real images take turns
        },
        # All of these texts are public: what only one of them has gives nothing away.
        "language": {
            "texts": [str(texts)],
            "order": 6,
            "least_labels": 1,
            "max_megabytes": _LANGUAGE_MEGABYTES[preset],
        },
        "gate": {"max_cer": None},  # writers of the 19th century are among those that are evaluated
        "card": {
            "data_licence": f"Rendered text in fonts under OFL 1.1 and Apache 2.0; {credits}. Of the writers, {styles} "
            f"are styles of rendered text, a font with traits; the real images are by {people} people and documents",
            "intended_use": f"Transcribing {'words' if preset == 'word' else 'words and lines'} in Latin script "
            "(Cyrillic: experimental) without training, and as the start of a training on images of one's own. Not "
            "meant for decisions about people without a person who looks at the text.",
        },
    }
    file = workspace.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return cli.main(["run", f"--config={file}", *(f"--set={other}" for other in given.set)])


if __name__ == "__main__":
    sys.exit(main())
