"""Trains the network on what Transform wrote and exports it: TFX Trainer's `run_fn`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft

from components.common import storage
from components.common.console import announced, console
from components.common.datasets import expand, write_text
from components.common.words import counted
from components.trainer import export, warm_start
from components.trainer.accelerators import is_chief, training_strategy, use_accelerators, use_float32
from components.trainer.augmentation import augment_batch
from components.trainer.checkpoint import fingerprint, forget, has_checkpoint
from components.trainer.fitting import Fitting, read_first
from components.trainer.input_pipeline import Source, batches, plain_batches, survey
from components.trainer.keeping import Kept, with_characters_of
from components.trainer.model import build
from components.trainer.settings import ModelConfig, TrainConfig
from components.trainer.temperature import fit_temperature
from components.trainer.transfer import freeze, learn_from, start_from
from components.transform.preprocessing import read_alphabet
from components.transform.settings import TransformConfig
from htr_client.model_facts import COLUMNS_PER_FRAME
from serving.version_directory import SETTINGS_FILE

HISTORY_FILE = "history.json"
SHEET_FILE = "augmented.png"
UNALIGNABLE_FILE = "unalignable.json"
_SHOWN, _VARIANTS = 8, 4  # images of the sheet, and how often training might see each
_WARMUP_IMAGES = 4


# Nothing that is traced here depends on AutoGraph, which would take a quarter of the time of tracing.
@tf.autograph.experimental.do_not_convert
def run_fn(fn_args: Any) -> None:
    """Called by TFX Trainer, on every worker if TF_CONFIG names several; the first one writes.

    Args:
        fn_args: `train_files`, `eval_files` (the validation split), `transform_output`, `serving_model_dir`,
            `model_run_dir`, and in `custom_config` the sections `transform`, `model`, `train` as JSON, the
            servable's `name`, `alphabet`, the characters that the model may write, if they are given, and
            `checkpoint_dir`, below which an interrupted training leaves its state; and `hyperparameters`, those that
            Tuner found, where there is a Tuner.

    Raises:
        FloatingPointError: The loss is no longer finite.
        WarmStartError: The model to start from does not fit.
        ValueError: No image can be trained on.
    """
    transform = TransformConfig.model_validate_json(fn_args.custom_config["transform"])
    model_config = ModelConfig.model_validate_json(fn_args.custom_config["model"])
    train = TrainConfig.model_validate_json(fn_args.custom_config["train"])
    # Before Tuner's values are in them, as Tuner does: what it finds for one start need not suit another.
    train, model_config, start = warm_start.settled(train, transform, model_config)
    if found := getattr(fn_args, "hyperparameters", None):
        from components.trainer.tuning import with_hyperparameters

        model_config, train = with_hyperparameters(model_config, train, found["values"])
    device = use_accelerators(train)
    strategy = training_strategy()
    keras.utils.set_random_seed(train.seed)

    tft_output = tft.TFTransformOutput(fn_args.transform_output)
    alphabet = read_alphabet(tft_output)
    feature_spec = tft_output.transformed_feature_spec()
    with announced("Surveying the training and validation images"):
        training = survey(expand(fn_args.train_files), feature_spec, transform, train.batch_size)
        validation = survey(expand(fn_args.eval_files), feature_spec, transform, train.batch_size)
    _tell_unalignable(training, fn_args.model_run_dir)

    state_dir = None
    if parent := fn_args.custom_config.get("checkpoint_dir"):
        # What the start holds, not where it lies: without a cache it is unpacked to another place each time.
        content = start.version and storage.digest(start.version)
        same_start = train.model_copy(update={"warm_start": content})
        sections = [section.model_dump_json() for section in (transform, model_config, same_start)]
        state_dir = _state_dir(parent, training.files + validation.files, sections)
    classes, height = len(alphabet) + 1, transform.height or 0
    with strategy.scope():
        model = build(model_config, classes, height)
        taken = start_from(model, alphabet, start.version) if start.version else None
        console().print(f"  starting from {start.name}{f'; {taken.told}' if taken else ''}", markup=False)
        freeze(model, train.freeze)
    fitting = Fitting(model, training, validation, alphabet, train, state_dir, strategy, taken.new if taken else ())
    replicated = strategy.num_replicas_in_sync > 1
    replicas = f", {strategy.num_replicas_in_sync} replicas" if replicated else ""
    console().print(f"  training on {device}{replicas}", markup=False)
    console().print(
        f"  {training.samples:,} images to train on, {validation.samples:,} for validation, {len(alphabet)} "
        f"characters, {model.count_params():,} parameters"
    )
    console().print(
        f"  at most {counted(fitting.schedule.epochs, 'epoch')} of {fitting.plan.steps:,} optimiser steps, "
        f"{fitting.plan.total:,} in all" + ("" if train.epochs else "; train.epochs sets another number")
    )
    mixed = keras.mixed_precision.dtype_policy().compute_dtype != "float32"
    try:
        fitting.run(log_dir=os.path.join(fn_args.model_run_dir, "tensorboard"))
    finally:
        use_float32()  # what is served, and what later steps of this process compute, whatever it was trained in
    if not is_chief():
        return

    with announced("Exporting the model"):
        kept = Kept(model, alphabet, fitting.log_probs)
        if start.version and train.keep_characters:
            is_given = fn_args.custom_config.get("alphabet") is not None
            kept = with_characters_of(start.version, kept, model_config, training, validation, is_given)
        if kept.model is model and (replicated or mixed):  # what is served is on one device, too
            kept = kept._replace(model=build(model_config, classes, height))
            learn_from(kept.model, alphabet, model, alphabet)
        neutral = warm_start.temperature_of(start.version) if start.version else 1.0
        seen = kept.seen or read_first(kept.log_probs, validation)
        temperature = fit_temperature(seen, kept.alphabet, neutral)
        served = export.ServedModel(kept.model, kept.alphabet, transform, temperature)
        images = _images_for_warmup(validation)
        export.save(served, fn_args.serving_model_dir, images, fn_args.custom_config["name"])
    settings: dict[str, Any] = {
        "alphabet": kept.alphabet, "transform": transform.model_dump(), "model": model_config.model_dump(),
        "train": train.model_dump() | dataclasses.asdict(fitting.schedule),
        "start": start.noted(transform.preset),
        "temperature": temperature, "best_validation_cer": fitting.best_cer + kept.added_cer,
        "training": dataclasses.asdict(fitting.outcome(device)),
    }  # fmt: skip
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    write_text(os.path.join(fn_args.serving_model_dir, SETTINGS_FILE), text)
    write_text(os.path.join(fn_args.model_run_dir, HISTORY_FILE), json.dumps(fitting.history, indent=1))
    with tf.io.gfile.GFile(os.path.join(fn_args.model_run_dir, SHEET_FILE), "wb") as file:
        file.write(augmentation_sheet(training, train))
    if state_dir:
        forget(state_dir)


def _state_dir(parent: str, files: Sequence[str], sections: Sequence[str]) -> str:
    """Where the training leaves its state: not where another precision does, whose optimiser has other variables."""
    precision = keras.mixed_precision.dtype_policy().name
    other = "float32" if precision == "mixed_float16" else "mixed_float16"
    name = fingerprint(files, *sections, module=__name__)
    own, others = (os.path.join(parent, f"{name}-{each}") for each in (precision, other))
    if has_checkpoint(others) and not has_checkpoint(own):
        console().print(f"  a training that was interrupted used {other}, this one {precision}: it starts anew")
    return own


def augmentation_sheet(source: Source, train: TrainConfig) -> bytes:
    """A PNG with a few training images, each as it is and as training may see it."""
    rows = []
    still = train.model_copy(update={"batch_size": _SHOWN, "augment": 0.0})
    inputs, _ = next(iter(batches(source, still)))
    images, widths = inputs["images"], inputs["widths"]
    narrowest = tf.zeros_like(widths) + COLUMNS_PER_FRAME
    seeds = (tf.constant([train.seed, variant], tf.int64) for variant in range(_VARIANTS))
    columns = [images] + [
        augment_batch(images, widths, narrowest, train.augment, train.augmentations, seed)[0] for seed in seeds
    ]
    for image in range(int(images.shape[0])):
        rows.append(tf.concat([tf.pad(column[image], [[2, 2], [4, 4], [0, 0]]) for column in columns], axis=1))
    return tf.io.encode_png(tf.cast(255.0 * (1.0 - tf.concat(rows, axis=0)), tf.uint8)).numpy()


def _tell_unalignable(source: Source, directory: str) -> None:
    """Names the images that CTC cannot align: they are left out, but not silently."""
    if source.unalignable:
        shown = ", ".join(source.unalignable[:5]) + (", ..." if len(source.unalignable) > 5 else "")
        console().print(
            f"  left out {counted(len(source.unalignable), 'image')} with fewer frames than the label needs: {shown}"
        )
        write_text(os.path.join(directory, UNALIGNABLE_FILE), json.dumps(source.unalignable, ensure_ascii=False))
    if not source.samples:
        raise ValueError("no image can be trained on: all are too narrow for their labels; see transform.preset")


def _images_for_warmup(source: Source) -> list[bytes]:
    """Drawn images of the sizes in which the network sees a few images of the dataset."""
    inputs, _ = next(iter(plain_batches(source, _WARMUP_IMAGES)))
    height = inputs["images"].shape[1]
    return [export.drawn_image(height, max(int(width), 1)) for width in inputs["widths"]]
