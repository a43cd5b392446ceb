"""CPU time of an exported version against the same weights exported by the code as it is now, and where it goes.

    python -m benchmarks.export --version workspace/serving_model/htr/1795655053 --images FOLDER
    python -m benchmarks.export --version word --images FOLDER       # the base model as it is shipped
    python -m benchmarks.export --version word --images FOLDER --bfloat16  # itself, in bfloat16

Both run in this process as the embedded server runs them, on the same images, each image once a size of batch: requests
have ever new widths, for which TensorFlow has to prepare. They take turns in being the first to transcribe a few of
them. Ratios are within one of several parts of the images. Texts and confidences of both are compared, and CERs where a
folder has `labels.csv`. The profile names TensorFlow's operations; a time is the least of several runs in one thread,
which a busy machine disturbs least, beside the peak of one core in the same process.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from components.base_model import packing
from components.common.metrics import PairedErrors, count_errors, edits_and_length
from components.trainer.export_again import export_again
from serving.runner import LoadedModel, RunnerOptions


def answers(model: LoadedModel, signature: str, images: Sequence[bytes]) -> dict[str, np.ndarray]:
    """What a version answers to one request."""
    found = model.signature(signature)
    outputs = model.run({found.inputs[0].tensor: np.array(images, object)}, list(found.outputs.values()))
    return dict(zip(found.outputs, outputs, strict=True))


def cpu_milliseconds(model: LoadedModel, batch: Sequence[bytes]) -> float:
    """CPU time of an image in a request."""
    begin = time.process_time()
    answers(model, "serving_default", batch)
    return 1000 * (time.process_time() - begin) / len(batch)


def compare_time(models: Sequence[LoadedModel], images: Sequence[bytes], size: int, turns: int) -> str:
    """Times both versions in batches of `size`, and returns a row of the table; few batches make fewer turns."""
    batches = [images[i : i + size] for i in range(0, len(images) - size + 1, size)]
    if not batches:
        raise SystemExit(f"There are {len(images)} images, too few for a batch of {size}.")
    for model in models:
        cpu_milliseconds(model, batches[0])
    by_turn = []
    for turn in np.array_split(np.arange(len(batches)), min(turns, len(batches))):
        times: list[list[float]] = [[], []]
        # Some batches one after the other, as a server with one version has them: its weights stay in the caches.
        # What is prepared for a width is kept for the whole process: each is the first one in half of a turn.
        for half, order in zip(np.array_split(turn, 2), ((0, 1), (1, 0)), strict=True):
            for which in order:
                times[which] += [cpu_milliseconds(models[which], batches[batch]) for batch in half]
        by_turn.append(np.mean(times, axis=1))
    before, after = np.median(by_turn, axis=0)
    ratio = statistics.median(new / old for old, new in by_turn)
    return f"| {size:5d} | {before:8.2f} | {after:8.2f} | {ratio:5.2f} | {1 / ratio:5.2f} |"


def peak() -> float:
    """GFLOP/s of one core in a large matrix product."""
    size = 1024
    with tf.Graph().as_default():
        matrix = tf.compat.v1.placeholder(tf.float32, [size, size])
        product = tf.reduce_sum(matrix @ matrix)
        with tf.compat.v1.Session(config=_one_thread()) as session:
            values = np.random.default_rng(0).random((size, size), np.float32)

            def once() -> float:
                begin = time.process_time()
                session.run(product, {matrix: values})
                return time.process_time() - begin

            return 2 * size**3 / min(once() for _ in range(20)) / 1e9


def profile(version: str, options: RunnerOptions, batch: Sequence[bytes], runs: int) -> tuple[int, dict[str, float]]:
    """Number of operations of a request, and microseconds an image by kind of operation."""
    model = LoadedModel(version, replace(options, session_config=_one_thread()))
    signature = model.signature("serving_default")
    feeds, fetches = {signature.inputs[0].tensor: np.array(batch, object)}, list(signature.outputs.values())
    options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
    times: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for _ in range(runs):
        told: Any = tf.compat.v1.RunMetadata()
        model.session.run(fetches, feeds, options=options, run_metadata=told)
        seen: dict[str, int] = defaultdict(int)  # in a loop a node comes again and again
        for node in (node for device in told.step_stats.dev_stats for node in device.node_stats):
            label = node.timeline_label
            kind = label.split(" = ")[1].split("(")[0] if " = " in label else node.node_name
            times[kind, node.node_name, seen[node.node_name]].append(node.op_end_rel_micros - node.op_start_rel_micros)
            seen[node.node_name] += 1
    model.close()
    by_kind: dict[str, float] = defaultdict(float)
    for (kind, _, _), found in times.items():
        by_kind[kind.removeprefix("_Mkl").removeprefix("Native")] += min(found) / len(batch)
    return len(times), by_kind


def labels_of(folders: Sequence[str]) -> dict[Path, str]:
    """Texts by image, of the folders that have `labels.csv`."""
    texts = {}
    for folder in map(Path, folders):
        if (folder / "labels.csv").exists():
            with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
                texts.update({folder / row["filename"]: row["text"] for row in csv.DictReader(file)})
    return texts


def compare_texts(
    texts: Sequence[Sequence[str]], confidences: Sequence[np.ndarray], labels: Sequence[str | None]
) -> str:
    """How texts, confidences and CERs of both versions differ, as sentences."""
    other = sum(before != after for before, after in zip(*texts, strict=True))
    off = np.abs(confidences[0] - confidences[1])
    told = (
        f"other texts: {other} of {len(labels)}; "
        f"confidences differ by {off.max():.1e} at most, by {off.mean():.1e} on average"
    )
    labelled = [(label, *pair) for label, *pair in zip(labels, *texts, strict=True) if label is not None]
    if labelled:
        references, *readings = zip(*labelled, strict=True)
        cers = [count_errors(references, some).rate for some in readings]
        paired = PairedErrors()
        for label, before, after in labelled:
            edits, length = edits_and_length(label, before)
            paired.add(edits, edits_and_length(label, after)[0], length)
        low, high = paired.interval(0.95)
        told += (
            f"\nCER, best path: {cers[0]:.4f} and {cers[1]:.4f}, "
            f"difference {paired.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        )
    return told


def _one_thread() -> Any:
    return tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", required=True, help="directory of a version, or the preset of a base model")
    parser.add_argument("--images", required=True, action="append", help="folder of images; may be repeated")
    parser.add_argument("--bfloat16", action="store_true", help="compare the version with itself in bfloat16")
    parser.add_argument("--count", type=int, default=240, help="of images")
    parser.add_argument("--turns", type=int, default=5, help="parts of the images, of which medians are taken")
    parser.add_argument("--profiles", type=int, default=10, help="runs of a profile; 0 leaves it out")
    arguments = parser.parse_args()
    version = arguments.version if os.path.isdir(arguments.version) else packing.unpack(arguments.version)
    files = sorted(
        path for folder in arguments.images for path in Path(folder).rglob("*")
        if path.suffix.lower() in (".png", ".jpg", ".jpeg")
    )  # fmt: skip
    chosen = random.Random(0).sample(files, min(arguments.count, len(files)))
    images, labels = [path.read_bytes() for path in chosen], labels_of(arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        compared = [(version, RunnerOptions())]
        if arguments.bfloat16:
            compared.append((version, RunnerOptions(bfloat16=True)))
        else:
            again = os.path.join(folder, "1")
            export_again(version, again)
            compared.append((again, RunnerOptions()))
        models = [LoadedModel(path, options) for path, options in compared]
        print(f"\n{len(images)} images, CPU ms an image, load of the machine {os.getloadavg()[0]:.1f}\n")
        print("| batch | before   | after    | ratio | faster |\n|-------|----------|----------|-------|-------|")
        for size in (1, 16):
            print(compare_time(models, images, size, arguments.turns), flush=True)
        texts, confidences = [], []
        for model in models:
            found = [answers(model, "transcribe", images[i : i + 16]) for i in range(0, len(images), 16)]
            texts.append([text.decode() for answer in found for text in answer["text"]])
            confidences.append(np.concatenate([answer["confidence"] for answer in found]))
        print(f"\n{compare_texts(texts, confidences, [labels.get(path) for path in chosen])}", flush=True)
        for size in (1, 16) if arguments.profiles else ():
            before, after = (profile(*one, images[:size], arguments.profiles) for one in compared)
            print(f"\nbatch of {size}: {before[0]} and {after[0]} operations, microseconds an image\n")
            print(f"| {'operation':26s} | before | after |\n|{'-' * 28}|--------|-------|")
            for kind in sorted({*before[1], *after[1]}, key=lambda k: -max(before[1][k], after[1][k]))[:14]:
                print(f"| {kind:26s} | {before[1][kind]:6.0f} | {after[1][kind]:5.0f} |")
            print(f"| {'all':26s} | {sum(before[1].values()):6.0f} | {sum(after[1].values()):5.0f} |", flush=True)
        print(f"\npeak of one core: {peak():.0f} GFLOP/s")


if __name__ == "__main__":
    main()
