"""Starting from an earlier model: its weights, also when the alphabet has grown; and layers that stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from components.common import storage
from components.common.words import some_characters
from components.trainer.model import Recogniser
from components.trainer.warm_start import WarmStartError, alphabet_of
from components.trainer.weights import read_weights
from serving.version_directory import SETTINGS_FILE

# Layers whose last axis is the class: one column a character, the blank last.
_HEADS = ("classes", "shortcut_classes")


class Taken(NamedTuple):
    """What a network has taken from an earlier model.

    Attributes:
        new: Classes of the characters that the earlier model lacks.
        told: All of it, as the rest of a sentence.
    """

    new: list[int]
    told: str


def start_from(model: Recogniser, alphabet: Sequence[str], version: str) -> Taken:
    """Gives a network the weights of an exported model.

    Characters that both know keep their weights; new ones keep the fresh weights they have; the blank is kept.

    Args:
        model: The new network.
        alphabet: Its characters.
        version: Its directory.

    Returns:
        What was taken.

    Raises:
        WarmStartError: It has other layers.
    """
    known = alphabet_of(version)
    with storage.here(version) as folder:
        earlier = read_weights(folder)
    shared = [(new, known.index(character)) for new, character in enumerate(alphabet) if character in known]
    columns = [*shared, (len(alphabet), len(known))]
    for variable in model.variables:
        if "seed_generator" in variable.path:
            continue
        value = earlier.get(variable.path)
        if value is not None and _is_of_head(variable.path):
            mixed = variable.numpy()
            if mixed.shape[:-1] == value.shape[:-1]:
                for new, old in columns:
                    mixed[..., new] = value[..., old]
                variable.assign(mixed)
                continue
        if value is None or value.shape != tuple(variable.shape):
            there = "no such layer" if value is None else f"the shape {list(value.shape)}"
            raise WarmStartError(
                f"train.warm_start: {version} has {there} where this network has {variable.path} "
                f"{list(variable.shape)}. Train with the `model` section of that version's {SETTINGS_FILE}"
            )
        variable.assign(value)
    if surplus := sorted(earlier.keys() - {variable.path for variable in model.variables}):
        raise WarmStartError(
            f"train.warm_start: {version} has {surplus[0]}, for which this network has no layer. Train with the "
            f"`model` section of that version's {SETTINGS_FILE}"
        )
    fresh = [number for number, character in enumerate(alphabet) if character not in known]
    told = f"{len(shared)} characters known" + (
        f", {len(fresh)} new: {some_characters(map(alphabet.__getitem__, fresh))}" if fresh else ""
    )
    return Taken(fresh, told)


def learn_from(
    model: Recogniser,
    alphabet: Sequence[str],
    trained: Recogniser,
    learnt: Sequence[str],
    but: Collection[str] = (),
) -> None:
    """Gives a network the weights of a trained one of as many classes or fewer; the other classes keep theirs.

    Args:
        model: The network.
        alphabet: Its characters.
        trained: The trained one.
        learnt: Its characters, all of them in `alphabet`.
        but: Those of them whose classes keep their weights, too.
    """
    pairs = [(alphabet.index(character), old) for old, character in enumerate(learnt) if character not in but]
    columns, theirs = map(list, zip(*pairs, (len(alphabet), len(learnt)), strict=True))
    for variable, value in zip(model.variables, trained.variables, strict=True):
        if "seed_generator" not in variable.path:
            weights = value.numpy()
            if _is_of_head(variable.path):
                wide = variable.numpy()
                wide[..., columns] = weights[..., theirs]
                weights = wide
            variable.assign(weights)


def mixture(
    model: Recogniser, start: Sequence[np.ndarray], learnt: Sequence[np.ndarray], share: float, new: Sequence[int]
) -> list[np.ndarray]:
    """The mean of a network's weights before and after its training (Wortsman et al. 2022, arXiv 2109.01903).

    Args:
        model: The network.
        start: Values of its variables before.
        learnt: Values after.
        share: Weight of those before.
        new: Classes that the start did not know: what these had before are random numbers, which have no share.

    Returns:
        Values of its variables.
    """
    mixed = []
    for variable, before, after in zip(model.variables, start, learnt, strict=True):
        value = share * before + (1.0 - share) * after if after.dtype.kind == "f" else after
        if _is_of_head(variable.path):
            value[..., new] = after[..., new]
        mixed.append(value)
    return mixed


def _is_of_head(path: str) -> bool:
    return path.split("/")[1] in _HEADS


def freeze(model: Recogniser, parts: Sequence[str]) -> None:
    """Keeps layers as they are: `convolutions`, `recurrent`."""
    for name, layers in (("convolutions", model.stages), ("recurrent", model.recurrent)):
        for layer in layers:
            layer.trainable = name not in parts
