"""Starting from an earlier model: its weights, also when the alphabet has grown; and layers that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

from components.common import storage
from components.trainer.base import WarmStartError, alphabet_of
from components.trainer.model import Recogniser
from components.trainer.weights import read_weights
from serving.version_directory import SETTINGS_FILE

# Layers whose last axis is the class: one column a character, the blank last.
_HEADS = ("classes", "shortcut_classes")


def start_from(model: Recogniser, alphabet: Sequence[str], version: str) -> str:
    """Gives a network the weights of an exported model.

    Characters that both know keep their weights; new ones keep the fresh weights they have; the blank is kept.

    Args:
        model: The new network.
        alphabet: Its characters.
        version: Its directory.

    Returns:
        A sentence about what was taken.

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
        layer = variable.path.split("/")[1]
        value = earlier.get(variable.path)
        if value is not None and layer in _HEADS:
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
    fresh = [character for character in alphabet if character not in known]
    return f"{len(shared)} characters known" + (f", new: {''.join(fresh)}" if fresh else "")


def freeze(model: Recogniser, parts: Sequence[str]) -> None:
    """Keeps layers as they are: `convolutions`, `recurrent`."""
    for name, layers in (("convolutions", model.stages), ("recurrent", model.recurrent)):
        for layer in layers:
            layer.trainable = name not in parts
