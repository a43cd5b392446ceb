"""From pages to a version: the training and the export that the pipeline and `make base-line-finder` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from components.common.console import announced
from components.line_finder.data import LabelledPage
from components.line_finder.export import ServedLineFinder, save
from components.line_finder.fitting import LineFitting
from components.line_finder.model import build
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from components.trainer.warm_start import Start


class NotValidated(RuntimeError):
    """An interrupted training has no weights yet that were validated."""


def make_version(
    config: LineFinderConfig,
    train: LineTrainingConfig,
    training: Sequence[LabelledPage],
    validation: Sequence[LabelledPage],
    directory: str,
    state_dir: str | None,
    start: Start,
    so_far: bool = False,
) -> dict[str, Any]:
    """Trains a line finder and writes it as a servable version.

    Args:
        config: Sizes of network and pages.
        train: How it is trained.
        training: Pages to learn from, of at most `config.longest` pixels.
        validation: Pages to monitor the training with, of other documents.
        directory: Directory of the version.
        state_dir: Where an interrupted training leaves its state and goes on from.
        start: What the weights start from.
        so_far: Whether to take the best weights of an interrupted training instead of training.

    Returns:
        Facts for metrics and card: `parameters`, `pages`, `history`, `best_epoch`, `start`.

    Raises:
        FloatingPointError: The loss is no longer finite.
        WarmStartError: The version to start from has another network.
        NotValidated: There is no state with validated weights to take.
    """
    keras.utils.set_random_seed(train.seed)
    fitting = LineFitting(build(config), config, training, validation, train, state_dir, start.version)
    if not so_far:
        fitting.run()
    elif not fitting.take_best_so_far():
        raise NotValidated(f"The training in {state_dir} has not been validated yet: it has no weights to take.")
    begin = {"name": start.name, "base_model": start.is_base}
    settings = {"train": train.model_dump(), "start": begin, "training": {"best_epoch": fitting.best_epoch}}
    with announced("Exporting the line finder"):
        save(ServedLineFinder(fitting.model, config), directory, config, settings)
    return {
        "parameters": fitting.model.count_params(), "pages": len(training), "history": fitting.history,
        "best_epoch": fitting.best_epoch, "start": begin,
    }  # fmt: skip
