"""Images per second: training against a plain Keras loop on the same network, the input pipeline, and inference.

Inference is the network as what is served has it, against Keras's `predict_on_batch` of the plain loop's network; both
get the same image tensors. All parts run in this process, in turns, several rounds of them; the table has the medians
and the ratios within a round, which a shared machine disturbs less than rates, and CPU time less than time. The
fraction of the peak is that of one core in a large matrix product, and counts what convolutions, LSTMs and classes
multiply and add: for training three times what inference does.

`--set train.bfloat16=true` trains in bfloat16 where the processor has it; the plain loop is float32 in any case, and
inference is measured in both.

    python -m benchmarks.training --data FOLDER --preset line
"""

import argparse
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from benchmarks.accuracy import FEATURES, prepare
from benchmarks.export import peak
from benchmarks.plain import PlainLoop
from components.example_gen.settings import DataConfig
from components.trainer.export import with_constants
from components.trainer.fitting import Fitting
from components.trainer.input_pipeline import batches, survey
from components.trainer.model import Recogniser, build
from pipeline import config as configuration
from serving.precision import has_bfloat16, use_bfloat16


class Rate(NamedTuple):
    """Images per second, and per second of CPU time."""

    wall: float
    cpu: float


def rate(step: Callable[[], Any], images: int, steps: int) -> Rate:
    """The rate of some steps of `images` each."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    done = images * steps
    return Rate(done / (time.perf_counter() - begin), done / (time.process_time() - begin_cpu))


def operations(model: Recogniser, height: int, width: int) -> float:
    """Floating-point operations of one image in the matrix products of inference, two for each weight and place.

    They are those of an image as wide as the batch: of narrower ones inference takes fewer.
    """
    total, rows, columns = 0, height, width
    for stage in model.stages:
        rows, columns = -(-rows // stage.stride), -(-columns // stage.stride)
        total += rows * columns * math.prod(stage.convolution.kernel.shape)
        rows, columns = rows // stage.pool[0], columns // stage.pool[1]
    weights = [weight for layer in model.recurrent for weight in layer.weights] + [model.classes.kernel]
    return 2.0 * (total + columns * sum(math.prod(weight.shape) for weight in weights if len(weight.shape) > 1))


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
    config = configuration.load(
        overrides=[f"transform.preset={arguments.preset}", "train.warm_start=none", *arguments.set]
    )
    with tempfile.TemporaryDirectory() as folder:
        alphabet, files = prepare(DataConfig(paths=arguments.data), config.transform, Path(folder))
        source = survey(files["train"], FEATURES, config.transform, config.train.batch_size)
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
        served = with_constants(fitting.model)

        mixed = config.train.bfloat16 and has_bfloat16()

        def in_precision(bfloat16: bool, part: Callable[[], Rate]) -> Callable[[], Rate]:
            """The part, for which TensorFlow computes as told."""

            def run() -> Rate:
                use_bfloat16(bfloat16)
                return part()

            return run

        def keras_steps() -> None:
            plain.model.fit(
                tf.data.Dataset.from_generator(
                    lambda: itertools.islice(plain_stream, arguments.steps),
                    output_signature=(tf.TensorSpec([None, height, None, 1]), tf.TensorSpec([None, None], tf.int64)),
                ),
                steps_per_epoch=arguments.steps, verbose=0,
            )  # fmt: skip

        def infer() -> Rate:
            return rate(lambda: served(one[0]["images"], one[0]["widths"]), size, 4 * arguments.steps)

        parts: dict[str, Callable[[], Rate]] = {
            "train, one batch repeated": in_precision(
                mixed, lambda: rate(lambda: fitting._step(one), size, arguments.steps)
            ),
            "train, real input pipeline": in_precision(
                mixed, lambda: rate(lambda: fitting._step(next(stream)), size, arguments.steps)
            ),
            "train, plain Keras loop": in_precision(False, lambda: rate(keras_steps, size * arguments.steps, 1)),
            # Many more steps than are prefetched.
            "input pipeline alone": lambda: rate(lambda: next(feed), size, 20 * arguments.steps),
            "inference": in_precision(False, infer),
            "inference, plain Keras": in_precision(
                False, lambda: rate(lambda: plain.model.predict_on_batch(one[0]["images"]), size, 4 * arguments.steps)
            ),
        }
        if has_bfloat16():
            parts["inference, bfloat16"] = in_precision(True, infer)
        for part in parts.values():
            part()
        rounds = [{name: part() for name, part in parts.items()} for _ in range(arguments.rounds)]
        width, fastest = int(one[0]["images"].shape[2]), peak()
        needed = operations(fitting.model, height, width)
    load = os.getloadavg()[0]
    print(f"\ntraining in {'bfloat16' if mixed else 'float32'}")
    print(f"{height} x {width}, {needed / 1e6:.0f} MFLOP an image, {fastest:.0f} GFLOP/s a core, load {load:.1f}\n")
    print(f"{'part':28s} images/s   per CPU s   of the peak (medians of {arguments.rounds})")
    for name in parts:
        wall, cpu = (statistics.median(getattr(r[name], kind) for r in rounds) for kind in Rate._fields)
        share = (3 if "train" in name else 1) * needed * cpu / fastest / 1e9
        print(f"{name:28s} {wall:8.1f}  {cpu:10.1f}  " + ("" if "pipeline alone" in name else f"{share:12.2f}"))
    for above, below in (
        ("train, real input pipeline", "train, one batch repeated"),
        ("train, real input pipeline", "train, plain Keras loop"),
        ("inference", "inference, plain Keras"),
        *([("inference, bfloat16", "inference, plain Keras")] if has_bfloat16() else []),
    ):
        wall, cpu = (
            statistics.median(getattr(r[above], kind) / getattr(r[below], kind) for r in rounds)
            for kind in Rate._fields
        )
        print(f"{above} / {below}: {wall:.2f}, per CPU s {cpu:.2f}")


if __name__ == "__main__":
    main()
