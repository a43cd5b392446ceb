"""The optional search for hyper-parameters before training: TFX Tuner's `tuner_fn`, with KerasTuner."""

from __future__ import annotations

import os
from typing import Any

import keras
import keras_tuner
import tensorflow_transform as tft
from tfx.components.tuner.component import TunerFnResult

from components.trainer.fitting import Fitting
from components.trainer.input_pipeline import survey
from components.trainer.model import build
from components.trainer.training import expand, use_accelerators
from components.transform.preprocessing import read_alphabet
from pipeline.config import ModelConfig, TrainConfig, TransformConfig, TuneConfig
from pipeline.console import console


def search_space(model: ModelConfig, train: TrainConfig) -> keras_tuner.HyperParameters:
    """The few settings that matter most, by their names in the configuration; the configured ones are tried first."""
    space = keras_tuner.HyperParameters()
    rate, units = train.learning_rate, model.recurrent_units
    space.Float("train.learning_rate", rate / 4, rate * 4, sampling="log", default=rate)
    space.Float("train.augment", 0.0, 1.5, default=min(train.augment, 1.5))
    space.Float("model.dropout", 0.0, 0.5, default=min(model.dropout, 0.5))
    space.Choice("model.recurrent_units", sorted({units // 2, units, 2 * units}), default=units)
    return space


def with_hyperparameters(
    model: ModelConfig, train: TrainConfig, values: dict[str, Any]
) -> tuple[ModelConfig, TrainConfig]:
    """The configuration with the values of a trial in it."""
    sections: dict[str, Any] = {"model": model.model_dump(), "train": train.model_dump()}
    for name, value in values.items():
        section, _, setting = name.partition(".")
        sections[section][setting] = value
    return ModelConfig.model_validate(sections["model"]), TrainConfig.model_validate(sections["train"])


class RecogniserTuner(keras_tuner.RandomSearch):
    """Random search (Bergstra & Bengio 2012) for the lowest validation CER after a few epochs."""

    def __init__(self, fn_args: Any, tune: TuneConfig):
        """Reads what all trials share; `fn_args` as in `training.run_fn`."""
        sections = fn_args.custom_config
        self.transform_config = TransformConfig.model_validate_json(sections["transform"])
        self.model_config = ModelConfig.model_validate_json(sections["model"])
        train = TrainConfig.model_validate_json(sections["train"])
        self.train_config = train.model_copy(update={"epochs": tune.epochs, "patience": tune.epochs})
        tft_output = tft.TFTransformOutput(fn_args.transform_graph_path)
        self.characters = read_alphabet(tft_output)
        spec = tft_output.transformed_feature_spec()
        self.training_source = survey(expand(fn_args.train_files), spec, self.transform_config)
        self.validation_source = survey(expand(fn_args.eval_files), spec, self.transform_config)
        use_accelerators(train)
        super().__init__(
            hyperparameters=search_space(self.model_config, train), tune_new_entries=False,
            objective=keras_tuner.Objective("validation_cer", "min"), max_trials=tune.trials, seed=train.seed,
            directory=os.path.join(fn_args.working_dir, "trials"), project_name="htr",
        )  # fmt: skip

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Trains with the values of one trial."""
        values = trial.hyperparameters.values
        model_config, train = with_hyperparameters(self.model_config, self.train_config, values)
        keras.utils.set_random_seed(train.seed)
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        console().print(f"  trial {len(self.oracle.trials)} of {self.oracle.max_trials}: {told}")
        model = build(model_config, len(self.characters) + 1, self.transform_config.height or 0)
        fitting = Fitting(model, self.training_source, self.validation_source, self.characters, train)
        fitting.run()
        return {"validation_cer": fitting.best_cer}


def tuner_fn(fn_args: Any) -> TunerFnResult:
    """Called by TFX Tuner.

    Args:
        fn_args: `train_files`, `eval_files`, `transform_graph_path`, `working_dir`, and in `custom_config` the
            sections `transform`, `model`, `train` and `tune` as JSON.

    Returns:
        The tuner; its search needs no arguments.
    """
    tune = TuneConfig.model_validate_json(fn_args.custom_config["tune"])
    return TunerFnResult(tuner=RecogniserTuner(fn_args, tune), fit_kwargs={})
