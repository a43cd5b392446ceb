"""What some labelled images of other writers bring: adapts the base model to them, and trains on them from nothing.

Images are drawn writer by writer, one tenth of them for validation; the CER is that of writers of whom none was drawn:
best path, with a language model of the labels, and with one that also knows the texts of the base model, as `htr run`
learns it. With 0 images the base model transcribes them as it is.

    python -m benchmarks.adaptation --data FOLDER --preset line --images 0 50 100 300 700 --seeds 1
"""

import argparse
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from benchmarks.accuracy import FEATURES, rates, read, train, write
from benchmarks.language import rate
from components.base_model import packing
from components.example_gen.dataset import Sample
from components.example_gen.settings import DataConfig
from components.language.learning import Recorded, learn
from components.trainer import base
from components.trainer.input_pipeline import Source, plain_batches, survey
from components.trainer.model import Recogniser, build
from components.trainer.schedule import schedule_for
from components.trainer.transfer import start_from
from htr_client.beam import default_decoder
from htr_client.decoding import Alphabet
from htr_client.language import LanguageModel
from pipeline import config as configuration


def draw(samples: Sequence[Sample], count: int, seed: int) -> dict[str, list[Sample]]:
    """Images of as few writers as have so many, divided into `train` and `validation`; `images` of each writer."""
    by_writer = defaultdict(list)
    for sample in samples:
        by_writer[sample.writer].append(sample)
    chance = random.Random(seed)
    writers = sorted(by_writer)
    chance.shuffle(writers)
    # A folder of 300 images that people have is by a dozen writers rather than by 2 or by 200.
    most = max(count // 12, 10)
    drawn: list[Sample] = []
    for writer in writers:
        drawn += chance.sample(by_writer[writer], min(most, len(by_writer[writer]), count - len(drawn)))
        if len(drawn) == count:
            break
    chance.shuffle(drawn)
    held = max(count // 10, 5)
    return {"train": drawn[held:], "validation": drawn[:held]}


def record(model: Recogniser, source: Source) -> list[Recorded]:
    """What a network sees in the images of a split."""
    infer = tf.function(lambda inputs: model(inputs, training=False), autograph=False, reduce_retracing=True)
    found = []
    for inputs, texts in plain_batches(source, 32):
        outputs = infer(inputs)
        log_probs, frames = tf.nn.log_softmax(outputs["logits"]).numpy(), outputs["frames"].numpy()
        rows = zip(log_probs, frames, texts.numpy(), strict=True)
        found += [Recorded(row[:valid], text.decode()) for row, valid, text in rows]
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CSV and images, with writers")
    parser.add_argument("--preset", default="line", choices=["word", "line"])
    parser.add_argument("--images", nargs="+", type=int, default=[0, 50, 100, 300, 700])
    parser.add_argument("--starts", nargs="+", default=["auto", "none"], help="of train.warm_start")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--evaluated", type=int, default=800, help="images of other writers")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow within an operation; 0 lets it choose")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    overrides = [f"transform.preset={arguments.preset}", *arguments.set]
    transform = configuration.load(overrides=overrides).transform
    samples = read(DataConfig(paths=[arguments.data], eval_fraction=0.3, split_salt="adaptation"), transform)
    others = [sample for sample in samples if sample.split == "eval"]
    evaluated = random.Random(0).sample(others, min(arguments.evaluated, len(others)))
    rest = [sample for sample in samples if sample.split != "eval"]
    lines = [f"{'start':8s} images  seed   steps  CPU min  CER (95 % interval)          WER     labels  and base"]
    print(lines[0], flush=True)
    for start in arguments.starts:
        for count in arguments.images:
            for seed in arguments.seeds[: 1 if count == 0 else None]:
                if count == 0 and start == "none":
                    continue
                config = configuration.load(overrides=[*overrides, f"train.warm_start={start}", f"train.seed={seed}"])
                settled, found = base.settled(config.train, transform, config.model)
                if start != "none" and settled.warm_start is None:
                    raise SystemExit(f"There is no start: {found.name}")
                config = config.model_copy(update={"train": settled})
                splits = draw(rest, count, seed) if count else {"train": [], "validation": []}
                with tempfile.TemporaryDirectory() as folder:
                    alphabet, files = write({**splits, "eval": evaluated}, transform, Path(folder))
                    if count:
                        model, minutes = train("recipe", config, files, alphabet)
                        batches = -(-len(splits["train"]) // settled.batch_size)
                        steps = schedule_for(settled, len(splits["train"])).epochs * batches
                    else:
                        alphabet, minutes, steps = base.alphabet_of(settled.warm_start or ""), 0.0, 0
                        model = build(config.model, len(alphabet) + 1, transform.height or 0)
                        start_from(model, alphabet, settled.warm_start or "")
                    source = survey(files["eval"], FEATURES, transform)
                    measured = rates(model, source, alphabet)
                    if count:
                        validation = record(model, survey(files["validation"], FEATURES, transform))
                        seen = record(model, source)
                labels = [sample.text for sample in splits["train"]]
                knowledge: list[tuple[list[str], LanguageModel | None]] = [([], None)]
                if settled.warm_start:
                    knowledge.append((packing.texts(arguments.preset), packing.language_model(arguments.preset)))
                for texts, known in knowledge if count else ():
                    learnt = learn([*labels, *texts], Alphabet(alphabet), validation, config.language, known).model
                    measured += f"  {rate(default_decoder(learnt), Alphabet(alphabet), seen):.4f}"
                keras.backend.clear_session()
                lines.append(f"{start:8.8s} {count:6d}  {seed:4d}  {steps:6d}  {minutes:7.1f}  {measured}")
                print(lines[-1], flush=True)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
