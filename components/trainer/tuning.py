"""The optional search for hyper-parameters before training: TFX Tuner's `tuner_fn`, with KerasTuner."""

from __future__ import annotations

import os
from typing import Any

import keras
import keras_tuner
import tensorflow_transform as tft
from keras_tuner.engine.trial import TrialStatus
from tfx.components.tuner.component import TunerFnResult

from components.common.console import announced, console
from components.common.datasets import expand
from components.common.words import counted
from components.trainer import warm_start
from components.trainer.accelerators import use_accelerators
from components.trainer.fitting import Fitting
from components.trainer.input_pipeline import survey
from components.trainer.model import build
from components.trainer.schedule import schedule_for, trial_epochs
from components.trainer.settings import ModelConfig, TrainConfig, TuneConfig
from components.trainer.transfer import freeze, start_from
from components.transform.preprocessing import read_alphabet
from components.transform.settings import TransformConfig


def search_space(model: ModelConfig, train: TrainConfig, rate: float) -> keras_tuner.HyperParameters:
    """The few settings that matter most, by their names in the configuration; the defaults are the configured ones.

    Where training starts from an earlier model, the number of units is that model's.

    Args:
        model: Section `model` of the configuration.
        train: Section `train`.
        rate: Learning rate that training would take.
    """
    space = keras_tuner.HyperParameters()
    units = model.recurrent_units
    space.Float("train.learning_rate", rate / 4, rate * 4, sampling="log", default=rate)
    space.Float("train.augment", 0.0, max(train.augment, 1.5), default=train.augment)
    space.Float("model.dropout", 0.0, max(model.dropout, 0.5), default=model.dropout)
    if not train.is_warm:
        space.Choice("model.recurrent_units", sorted({max(units // 2, 8), units, 2 * units}), default=units)
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


class ConfiguredFirst(keras_tuner.oracles.RandomSearchOracle):
    """Random search (Bergstra & Bengio 2012) that begins with the configured values, so that it finds no worse ones."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Values of the next trial; called by KerasTuner."""
        if self.trials:
            return super().populate_space(trial_id)
        values = {parameter.name: parameter.default for parameter in self.hyperparameters.space}
        return {"status": TrialStatus.RUNNING, "values": values}


class RecogniserTuner(keras_tuner.Tuner):
    """Searches for the lowest validation CER after a few epochs."""

    def __init__(self, fn_args: Any, tune: TuneConfig):
        """Reads what all trials share; `fn_args` as in `training.run_fn`."""
        sections = fn_args.custom_config
        self.transform_config = TransformConfig.model_validate_json(sections["transform"])
        model = ModelConfig.model_validate_json(sections["model"])
        train = TrainConfig.model_validate_json(sections["train"])
        train, self.model_config, start = warm_start.settled(train, self.transform_config, model)
        console().print(f"  starting from {start.name}", markup=False)
        use_accelerators(train)
        tft_output = tft.TFTransformOutput(fn_args.transform_graph_path)
        self.characters = read_alphabet(tft_output)
        spec = tft_output.transformed_feature_spec()
        with announced("Surveying the training and validation images"):
            given = (spec, self.transform_config, train.batch_size)
            self.training_source = survey(expand(fn_args.train_files), *given)
            self.validation_source = survey(expand(fn_args.eval_files), *given)
        schedule = schedule_for(train, self.training_source.samples)
        epochs = trial_epochs(tune, schedule)
        trials = f"{counted(tune.trials, 'trial')} of {counted(epochs, 'epoch')} each"
        console().print(f"  {trials}, before the training of {counted(schedule.epochs, 'epoch')}")
        self.train_config = train.model_copy(update={"epochs": epochs, "patience": epochs})
        space = search_space(self.model_config, train, schedule.learning_rate)
        oracle = ConfiguredFirst(
            hyperparameters=space, tune_new_entries=False,
            objective=keras_tuner.Objective("validation_cer", "min"), max_trials=tune.trials, seed=train.seed,
            max_consecutive_failed_trials=tune.trials + 1,  # `search` says it better
        )  # fmt: skip
        super().__init__(oracle, directory=os.path.join(fn_args.working_dir, "trials"), project_name="htr")

    def search_space_summary(self, extended: bool = False) -> None:
        """Nothing: TFX calls it, and standard output belongs to `htr run --json`."""

    def results_summary(self, num_trials: int = 10) -> None:
        """Nothing, for the same reason; `run_trial` tells people what is tried."""

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Runs all trials.

        Raises:
            FloatingPointError: Not one trial has a finite loss.
            FatalError: A trial failed for another reason, which is the cause.
        """
        super().search(*fit_args, **fit_kwargs)
        if not any(trial.status == TrialStatus.COMPLETED for trial in self.oracle.trials.values()):
            raise FloatingPointError(
                "tune.trials: no trial has a finite loss, so there are no values to train with; lower "
                "train.learning_rate"
            )

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Trains with the values of one trial; one whose loss is no longer finite is told and left out."""
        try:
            return self._trained(trial)
        except FloatingPointError as error:
            console().print(f"  the trial is left out: {error}", markup=False)
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        except Exception as error:
            # KerasTuner would pass over it without a word: a full disk says nothing about the values of a trial.
            raise keras_tuner.errors.FatalError(f"{type(error).__name__}: {error}") from error

    def _trained(self, trial: Any) -> dict[str, float]:
        values = trial.hyperparameters.values
        model_config, train = with_hyperparameters(self.model_config, self.train_config, values)
        keras.utils.set_random_seed(train.seed)
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        console().print(f"  trial {len(self.oracle.trials)} of {self.oracle.max_trials}: {told}")
        model = build(model_config, len(self.characters) + 1, self.transform_config.height or 0)
        new = start_from(model, self.characters, train.warm_start).new if train.warm_start else ()
        freeze(model, train.freeze)
        fitting = Fitting(model, self.training_source, self.validation_source, self.characters, train, new=new)
        fitting.run()
        if fitting.broken:  # a warm start ends with the weights of its start then
            raise FloatingPointError(fitting.broken)
        return {"validation_cer": fitting.best_cer}


def tuner_fn(fn_args: Any) -> TunerFnResult:
    """Called by TFX Tuner.

    Args:
        fn_args: `train_files`, `eval_files`, `transform_graph_path`, `working_dir`, and in `custom_config` the
            sections `transform`, `model`, `train` and `tune` as JSON.

    Returns:
        The tuner, and what keeps its search quiet.
    """
    tune = TuneConfig.model_validate_json(fn_args.custom_config["tune"])
    return TunerFnResult(tuner=RecogniserTuner(fn_args, tune), fit_kwargs={"verbose": 0})
