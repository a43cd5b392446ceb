"""Several replicas and several workers train one model: no row is lost, none waits for another."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from components.common.metrics import count_errors
from components.trainer import training
from components.trainer.input_pipeline import divisible
from components.transform.settings import TransformConfig
from tests.components.toy import TRAIN, WORDS, arguments, drawn, source_of, start

WORD = TransformConfig()


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 8])
def test_each_replica_gets_as_many_rows_and_none_is_lost(replicas):
    for rows in range(1, 18):
        column = tf.range(rows)
        batch = ({"images": column[:, tf.newaxis], "widths": column}, column[:, tf.newaxis])
        ((inputs, labels),) = divisible(tf.data.Dataset.from_tensors(batch), replicas)
        seen = inputs["widths"].numpy()
        assert len(seen) % replicas == 0 and len(seen) - rows < replicas
        np.testing.assert_array_equal(seen[:rows], range(rows))
        assert set(seen) == set(range(rows))
        np.testing.assert_array_equal(inputs["images"][:, 0], seen)
        np.testing.assert_array_equal(labels[:, 0], seen)


REPLICAS = """
import atexit
import gc
import json
import sys
from pathlib import Path

import keras
import tensorflow as tf

atexit.register(gc.freeze)  # the end would go through all that was imported
folder, replicas, batch_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * replicas
)
from components.trainer.fitting import Fitting
from components.trainer.model import build
from tests.components.toy import COLD, SMALL, source_of

train = COLD.model_copy(update={"epochs": 2, "batch_size": batch_size})
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
keras.utils.set_random_seed(train.seed)
with strategy.scope():
    model = build(SMALL, 4, 32)
source = source_of(folder)
fitting = Fitting(model, source, source, ["a", "b", "c"], train, strategy=strategy)
fitting.run()
print(json.dumps({"done": fitting.done, "losses": [epoch["loss"] for epoch in fitting.history]}))
"""


@pytest.mark.either_stack
@pytest.mark.slow
def test_replicas_train_also_on_a_batch_that_has_no_row_for_one_of_them(toy):
    source, batch_size = source_of(toy), 191
    assert source.samples % batch_size == 1
    command = [sys.executable, "-c", REPLICAS, str(toy), "2", str(batch_size)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["done"] == 2 * source.steps(batch_size)
    assert len(found["losses"]) == 2 and np.isfinite(found["losses"]).all()


POISONED = """
import atexit
import gc
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

atexit.register(gc.freeze)
folder = Path(sys.argv[1])
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from components.trainer.fitting import Fitting
from components.trainer.model import build
from tests.components.toy import COLD, SMALL, source_of

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
source = source_of(folder)


def state(fitting):
    optimizer = getattr(fitting.optimizer, "inner_optimizer", fitting.optimizer)
    variables = [variable.value for variable in fitting.model.variables + optimizer.variables] + fitting.weights.state
    return [copy.numpy() for variable in variables for copy in strategy.experimental_local_results(variable)]


def step(fitting, batch, poisoned=None):
    inputs, labels = batch
    local = [
        ({name: strategy.experimental_local_results(value)[replica] for name, value in inputs.items()},
         strategy.experimental_local_results(labels)[replica])
        for replica in range(2)
    ]
    if poisoned is not None:
        images = local[poisoned][0]["images"]
        local[poisoned][0]["images"] = tf.fill(tf.shape(images), np.nan)
    values = strategy.experimental_distribute_values_from_function(
        lambda context: local[context.replica_id_in_sync_group]
    )
    return float(fitting._step(values))


found = {}
for precision in ("float32", "mixed_float16"):
    keras.mixed_precision.set_global_policy(precision)
    with strategy.scope():
        model = build(SMALL, 4, 32)
    fitting = Fitting(model, source, source, ["a", "b", "c"], COLD, strategy=strategy)
    if precision == "mixed_float16":
        fitting.optimizer.dynamic_scale.assign(16.0)  # nothing overflows yet
    stream, found[precision] = fitting._stream(), []
    for poisoned in (None, 0, 1, None):
        before = state(fitting)
        loss = step(fitting, next(stream), poisoned)
        after = state(fitting)
        found[precision].append({
            "left_out": not np.isfinite(loss), "finite": all(np.isfinite(value).all() for value in after),
            "changed": any((old != new).any() for old, new in zip(before, after)),
        })
print(json.dumps(found))
"""


@pytest.mark.either_stack
@pytest.mark.slow
def test_a_share_that_is_not_finite_is_left_out_by_all_replicas(toy):
    """In either precision; in one process, since importing takes as long as the steps."""
    command = [sys.executable, "-c", POISONED, str(toy)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    for steps in found.values():
        assert all(step["finite"] for step in steps)
        assert [step["changed"] for step in steps] == [True, False, False, True]
    # In float16 the first layer loses what is no number, so that only gradients have it.
    assert [step["left_out"] for step in found["float32"]] == [False, True, True, False]


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.mark.either_stack
@pytest.mark.slow
def test_two_workers_train_one_model(toy, tmp_path):
    train = TRAIN.model_copy(update={"epochs": 10, "learning_rate": 0.006})
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    processes = []
    for index in range(2):
        file = tmp_path / f"worker{index}.json"
        file.write_text(json.dumps(arguments(toy, tmp_path / "out", train, WORD)))
        task = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        processes.append(start(file, TF_CONFIG=task))
    assert [process.wait(timeout=240) for process in processes] == [0, 0], (tmp_path / "worker0.json.log").read_text()
    assert "2 replicas" in (tmp_path / "worker0.json.log").read_text()
    history = json.loads((tmp_path / "out" / "run" / training.HISTORY_FILE).read_text())
    assert history[-1]["validation_cer"] < 0.1
    loaded = tf.saved_model.load(str(tmp_path / "out" / "model"))
    answer = loaded.signatures["transcribe"](image_bytes=tf.constant([drawn(w, 500) for w in WORDS]))
    assert count_errors(WORDS, [t.decode() for t in answer["text"].numpy()]).rate < 0.15
