"""What the report shows: the settings that the outcome of a run depends on, and those of the model card.

`RunSettings` is apart from `pipeline.config.Config`, which adds the sections of where and how a run works: the Report
step takes it, components cannot import the pipeline, and a change of workers or schedules must not make the step anew.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from components.common.settings import Section
from components.evaluator.settings import GateConfig
from components.example_gen.settings import DataConfig
from components.language.settings import LanguageConfig
from components.pusher.settings import PushConfig
from components.trainer.settings import ModelConfig, TrainConfig, TuneConfig
from components.transform.settings import TransformConfig


class CardConfig(Section):
    """What the model card says besides figures."""

    intended_use: str = Field(
        "Transcribing images like those it was trained on, as a draft where errors are looked for by a person. Not "
        "meant for decisions about people without one.",
        description="what the model is for, and what not",
    )
    data_licence: str | None = Field(None, description="licence of the training data")
    contact: str | None = Field(None, description="whom to ask about the model")


class RunSettings(Section):
    """The settings that the outcome of a run depends on; the others say where it runs."""

    name: str = Field("htr", pattern=r"^[a-z][a-z0-9_-]*$", description="name of the pipeline and of the servable")
    data: DataConfig = DataConfig()
    transform: TransformConfig = TransformConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    tune: TuneConfig = TuneConfig()
    language: LanguageConfig = LanguageConfig()
    gate: GateConfig = GateConfig()
    push: PushConfig = PushConfig()
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _rows_for_all_stages(self) -> RunSettings:
        stages, height = len(self.model.filters), self.transform.height or 0
        if height < 2 ** (stages - 1):
            raise ValueError(
                f"model.filters: {stages} stages, of which each but the first halves the rows, leave none of the "
                f"{height} of transform.height"
            )
        return self
