"""Weights of exported networks, by their paths in the network."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

VARIABLES_KEY = "network_variables"
"""Attribute under which a served model tracks the variables of its network, by their paths."""


def read_weights(version: str) -> dict[str, np.ndarray]:
    """Reads the weights of an exported model.

    Args:
        version: Directory of the version, on this machine.

    Returns:
        Weights by their paths in the network.
    """
    reader = tf.train.load_checkpoint(os.path.join(version, "variables", "variables"))
    weights = {}
    for key in reader.get_variable_to_shape_map():
        parts = key.split("/")
        if parts[0] == VARIABLES_KEY and len(parts) > 1:
            # In checkpoints a slash within a name is written as ".S".
            weights[parts[1].replace(".S", "/")] = reader.get_tensor(key)
    return weights
