"""Images per second: training against a plain Keras loop on the same network, the input pipeline, and inference.

All parts run in this process, in turns, several rounds of them; the table has the medians and the ratios within a
round, which a shared machine disturbs less than rates.

    python -m benchmarks.training --data FOLDER --preset line
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarks.accuracy import FEATURES, prepare
from benchmarks.plain import PlainLoop
from components.example_gen.settings import DataConfig
from components.trainer.fitting import Fitting
from components.trainer.input_pipeline import batches, survey
from components.trainer.model import build
from pipeline import config as configuration


def rate(step: Callable[[], Any], images: int, steps: int) -> float:
    """Images per second of wall time over some steps of `images` each."""
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return images * steps / (time.perf_counter() - begin)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="folder with CSV and images; may be repeated")
    parser.add_argument("--preset", default="line", choices=["word", "line"])
    parser.add_argument("--steps", type=int, default=12, help="of each part in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    half = max((os.cpu_count() or 1) // 2, 1)
    parser.add_argument("--threads", type=int, default=half, help="within an operation; half the cores, as `htr run`")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    config = configuration.load(overrides=[f"transform.preset={arguments.preset}", *arguments.set])
    with tempfile.TemporaryDirectory() as folder:
        alphabet, files = prepare(DataConfig(paths=arguments.data), config.transform, Path(folder))
        source = survey(files["train"], FEATURES, config.transform)
        keras.utils.set_random_seed(1)
        size, height = config.train.batch_size, config.transform.height or 0
        endless_epochs = 1000
        endless = config.train.model_copy(update={"epochs": endless_epochs})
        fitting = Fitting(build(config.model, len(alphabet) + 1, height), source, source, alphabet, endless)
        stream: Iterator[Any] = iter(batches(source, endless, endless_epochs))
        feed: Iterator[Any] = iter(batches(source, endless, endless_epochs))
        one = next(stream)
        plain = PlainLoop(config.model, len(alphabet) + 1, height, fitting.schedule.learning_rate)
        plain_data = batches(source, endless.model_copy(update={"augment": 0.0}), endless_epochs)
        plain_stream = iter(plain_data.map(lambda inputs, labels: (inputs["images"], labels)))
        infer = tf.function(lambda inputs: fitting.model(inputs, training=False), reduce_retracing=True)

        def keras_steps() -> None:
            plain.model.fit(
                tf.data.Dataset.from_generator(
                    lambda: itertools.islice(plain_stream, arguments.steps),
                    output_signature=(tf.TensorSpec([None, height, None, 1]), tf.TensorSpec([None, None], tf.int64)),
                ),
                steps_per_epoch=arguments.steps, verbose=0,
            )  # fmt: skip

        parts: dict[str, Callable[[], float]] = {
            "train, one batch repeated": lambda: rate(lambda: fitting._step(one), size, arguments.steps),
            "train, real input pipeline": lambda: rate(lambda: fitting._step(next(stream)), size, arguments.steps),
            "train, plain Keras loop": lambda: rate(keras_steps, size * arguments.steps, 1),
            # Many more steps than are prefetched.
            "input pipeline alone": lambda: rate(lambda: next(feed), size, 20 * arguments.steps),
            "inference": lambda: rate(lambda: infer(one[0]), size, arguments.steps),
            "inference, plain Keras": lambda: rate(
                lambda: plain.model.predict_on_batch(one[0]["images"]), size, arguments.steps
            ),
        }
        for part in parts.values():
            part()
        rounds = [{name: part() for name, part in parts.items()} for _ in range(arguments.rounds)]
    print(f"\n{'part':28s} images/s (median of {arguments.rounds})")
    for name in parts:
        print(f"{name:28s} {statistics.median(r[name] for r in rounds):10.1f}")
    for above, below in (
        ("train, real input pipeline", "train, one batch repeated"),
        ("train, real input pipeline", "train, plain Keras loop"),
        ("inference", "inference, plain Keras"),
    ):
        ratio = statistics.median(r[above] / r[below] for r in rounds)
        print(f"{above} / {below}: {ratio:.2f}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
