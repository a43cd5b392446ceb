"""`make base-line-finder`: the line finder that is shipped, trained from pages of real handwriting.

The command can be interrupted at any time; run again it goes on. What it makes lies in one folder: the state of the
training, and the version with its card and metrics, which is packed into the package.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from components.base_model import packing
from components.base_model.packing import BaseModelError
from components.common.console import announced, console
from components.common.folders import made_whole
from components.common.stopping import Stopped, stoppable
from components.common.words import counted
from components.example_gen.rejects import Rejected
from components.line_finder.card import model_card
from components.line_finder.data import LabelledPage, draw_number, load_pages
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from components.pages.files import ImportProblem
from components.tools.base_data.rendered_pages.pages import render_page
from components.tools.base_data.rendered_text.texts import draw_texts
from components.trainer.warm_start import Start
from htr_client.pages import PageError
from serving.version_directory import CARD_FILE, METRICS_FILE

TRAINING, VALIDATION, EVALUATION = "training", "validation", "evaluation"
_SHARES = {EVALUATION: 0.16, VALIDATION: 0.10}


@dataclass(frozen=True)
class PageSet:
    """A folder below `pages` of pages with XML whose licence lets weights be published.

    Attributes:
        name: Name of the folder.
        credit: Whom to attribute, with the licence.
        document: Regular expression for a page's name; its group is the document.
        splits: Regular expressions for the documents of a split, where there are too few to draw them by lot.
    """

    name: str
    credit: str
    document: str
    splits: tuple[tuple[str, str], ...] = ()

    def split_of(self, document: str) -> str:
        """The split of all pages of a document."""
        if self.splits:
            return next((split for split, pattern in self.splits if re.fullmatch(pattern, document)), TRAINING)
        number = draw_number(document)
        for split, share in _SHARES.items():
            if number < share:
                return split
            number -= share
        return TRAINING


RECIPE = (
    PageSet("poilus", "CREMMA-AN-TestamentsDePoilus (HTR-United), CC BY 4.0", r"will_([A-Z0-9]+_\d+)-"),
    # The folios of Sand's and Zola's manuscripts have names of one kind, so each page stands as a document here.
    PageSet(
        "mss19", "CREMMA-MSS-19 (HTR-United), CC BY 4.0", r"mss19_(.+)$",
        ((EVALUATION, r"f(45|53|225|237|241|335|349)|01R_P1S3SS2P118_.*"), (VALIDATION, r"f(207|235|485|615|797)")),
    ),
)  # fmt: skip
"""What the base line finder is trained on. Sand's Fadette and the letters of Sister Marie are held back as a whole."""
RENDERED = 120
"""Pages that are rendered beside the real ones: other layouts and print, which those of two sources lack."""
_SEED, _LONGEST_TEXT = 7, 80
_REMARKS = (
    "The real pages are French, about 1800 to 1918.",
    f"{RENDERED} more pages are rendered: letters, forms, tables, envelopes. The handwriting is in fonts under the SIL "
    "Open Font License, the print, which is to be left out, in DejaVu and STIX.",
    "The labels of the wills (poilus) leave out stamps, printed headings and notes by officials: what it finds there "
    "counts as wrong.",
)


def load_splits(data: Path, longest: int) -> dict[str, dict[str, list[LabelledPage]]]:
    """The pages of the recipe.

    Args:
        data: Folder that holds the folder `pages`.
        longest: Most pixels of a page's longest side.

    Returns:
        Pages by "training", "validation" or "evaluation", and by name of their set.
    """
    splits: dict[str, dict[str, list[LabelledPage]]] = {TRAINING: {}, VALIDATION: {}, EVALUATION: {}}
    for one in RECIPE:
        for page in load_pages([str(data / "pages" / one.name)], longest, one.document):
            splits[one.split_of(page.document)].setdefault(one.name, []).append(page)
    return splits


def rendered_pages(count: int) -> list[LabelledPage]:
    """Pages rendered for the training, the same ones at every call.

    Args:
        count: How many.

    Raises:
        ImportError: Faker is not installed, from which their words come.
    """
    texts = chain.from_iterable(draw_texts(1000, seed, _LONGEST_TEXT) for seed in itertools.count(_SEED))
    return [render_page(f"rendered-{i}", texts, np.random.default_rng([_SEED, i])) for i in range(count)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, evaluates, and packs the result into the package. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make base-line-finder", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the folder `pages` with the sets")
    parser.add_argument("--folder", type=Path, default=Path("base-line-finder"), help="for everything that is made")
    parser.add_argument("--epochs", type=int, default=LineTrainingConfig().epochs, help="passes over the pages")
    parser.add_argument("--so-far", action="store_true", help="pack the best weights of the interrupted training")
    given = parser.parse_args(arguments)
    try:
        with stoppable():
            _make(given)
    except Stopped as stopped:
        console().print("Stopped. The same command goes on with the training.")
        return stopped.code
    except (ImportProblem, PageError, Rejected, BaseModelError) as error:
        console().print(f"error: {error}", markup=False)
        return 1
    return 0


def _make(given: argparse.Namespace) -> None:
    config, train = LineFinderConfig(), LineTrainingConfig(epochs=given.epochs)
    with announced("Loading pages"):
        splits = load_splits(given.data, config.longest)
    training, validation = ([*chain(*splits[split].values())] for split in (TRAINING, VALIDATION))
    with announced("Rendering pages"):
        training += rendered_pages(RENDERED)
    version = given.folder / _name_of(config, train, training, validation) / "1"
    if given.so_far:
        version = version.with_name("2")
        shutil.rmtree(version, ignore_errors=True)
    if not version.exists():
        _train(config, train, training, validation, version, given.so_far)
    _evaluate(version, splits[EVALUATION], config, train)
    console().print(f"{packing.pack(str(version), packing.PAGES)} is the new base line finder")


def _name_of(
    config: LineFinderConfig,
    train: LineTrainingConfig,
    training: Sequence[LabelledPage],
    validation: Sequence[LabelledPage],
) -> str:
    """A name for the training: one that was interrupted or is done counts only where it is the same."""
    told = [config.model_dump_json(), train.model_dump_json()]
    for pages in (training, validation):
        told += ["pages", *map(_content_of, pages)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def _content_of(page: LabelledPage) -> str:
    """A digest of what is learnt from a page, which does not include the texts of its lines."""
    lines = [(line.baseline, line.polygon) for line in page.lines]
    return hashlib.sha256(f"{page.name} {page.grey.shape} {lines}".encode() + page.grey.tobytes()).hexdigest()


def _train(
    config: LineFinderConfig,
    train: LineTrainingConfig,
    training: Sequence[LabelledPage],
    validation: Sequence[LabelledPage],
    version: Path,
    so_far: bool,
) -> None:
    from components.line_finder.making import NotValidated, make_version

    if not so_far:
        console().print(f"Training the line finder on {counted(len(training), 'page')}")
    state = str(version.parent / "state")
    try:
        with made_whole(version) as target:
            facts = make_version(
                config, train, training, validation, str(target), state, Start(None, "nothing"), so_far
            )
            version.with_name(f"{version.name}.{METRICS_FILE}").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    except NotValidated as error:
        raise BaseModelError(str(error)) from error


def _evaluate(
    version: Path,
    splits: dict[str, list[LabelledPage]],
    config: LineFinderConfig,
    train: LineTrainingConfig,
) -> None:
    """Finds the lines of the held-back pages as a service would, and writes metrics and card beside the version."""
    from components.line_finder.measuring import as_served
    from components.line_finder.metric import score_pages
    from serving.local_lines import LocalLineFinder

    evaluation = {}
    with announced("Finding the lines of the held-back pages"), LocalLineFinder(version) as finder:
        find = as_served(finder)
        for name, held_back in splits.items():
            score = score_pages((page.lines, find(page.grey)) for page in held_back)
            evaluation[name] = {
                "pages": len(held_back), "lines": score.true, "found": score.found, "f1": score.f1,
                "precision": score.precision, "recall": score.recall,
            }  # fmt: skip
    metrics_file = version.with_name(f"{version.name}.{METRICS_FILE}")
    metrics = json.loads(metrics_file.read_text("utf-8")) | {"evaluation": evaluation, "train": train.model_dump()}
    metrics_file.write_text(json.dumps(metrics, indent=1) + "\n", "utf-8")
    card = model_card(config, train, [f"{'; '.join(one.credit for one in RECIPE)}.", *_REMARKS], metrics)
    version.with_name(f"{version.name}.{CARD_FILE}").write_text(card, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
