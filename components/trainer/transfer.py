"""Starting from an earlier model: its weights, also when the alphabet has grown; and layers that stay as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from components.trainer.base import WarmStartError, find_base
from components.trainer.export import VARIABLES_KEY
from components.trainer.model import Recogniser
from serving.version_directory import SETTINGS_FILE

# Layers whose last axis is the class: one column a character, the blank last.
_HEADS = ("classes", "shortcut_classes")


def start_from(model: Recogniser, alphabet: Sequence[str], directory: str) -> str:
    """Gives a network the weights of an exported model.

    Characters that both know keep their weights; new ones keep the fresh weights they have; the blank is kept.

    Args:
        model: the new network.
        alphabet: its characters.
        directory: a version (it has `saved_model.pb`), or a directory of versions, of which the newest is taken.

    Returns:
        A sentence about what was taken.

    Raises:
        WarmStartError: no model there, or one with other layers.
    """
    version = find_base(directory)
    with tf.io.gfile.GFile(os.path.join(version, SETTINGS_FILE)) as file:
        known = json.loads(file.read())["alphabet"]
    earlier = _read_weights(version)
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
    return f"weights of {version}; {len(shared)} characters known" + (f", new: {''.join(fresh)}" if fresh else "")


def freeze(model: Recogniser, parts: Sequence[str]) -> None:
    """Keeps layers as they are: `convolutions`, `recurrent`."""
    for name, layers in (("convolutions", model.stages), ("recurrent", model.recurrent)):
        for layer in layers:
            layer.trainable = name not in parts


def _read_weights(version: str) -> dict[str, np.ndarray]:
    """Weights of an exported model by their paths in the network."""
    reader = tf.train.load_checkpoint(os.path.join(version, "variables", "variables"))
    weights = {}
    for key in reader.get_variable_to_shape_map():
        parts = key.split("/")
        if parts[0] == VARIABLES_KEY and len(parts) > 1:
            # In checkpoints a slash within a name is written as ".S".
            weights[parts[1].replace(".S", "/")] = reader.get_tensor(key)
    return weights
