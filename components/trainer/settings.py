"""Settings of Trainer and Tuner: the network, its training, the search."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from components.common.fractions import Fraction
from components.common.settings import PathText, Section

AUTO = "auto"  # of warm_start: the base model that is shipped


Augmentation = Literal["affine", "elastic", "neighbours", "stroke", "contrast", "noise", "cutout", "sharpness"]


class ModelConfig(Section):
    """The network: convolutions, recurrent layers, CTC."""

    filters: list[Annotated[int, Field(ge=1)]] = Field(
        [24, 48, 96, 128, 192], min_length=3, description="channels of the convolution stages"
    )
    recurrent_units: int = Field(128, ge=8, description="units of each direction of the recurrent layers")
    recurrent_layers: int = Field(2, ge=1, le=6, description="number of bidirectional LSTM layers")
    dropout: Fraction = Field(
        0.2, lt=0.9, description="dropout rate before each recurrent layer and before the classes"
    )
    softening: Fraction | None = Field(
        None,
        le=0.25,
        description="how soft images get that are transcribed, as augmentation makes those of training: the weight of "
        "a pixel's neighbours in the row and in the column, each; that of the start if unset, 0 from random weights",
    )


class LoopConfig(Section):
    """What any training has: where it starts, its optimiser, its checkpoints."""

    warm_start: PathText | None = Field(
        AUTO,
        description="weights that training starts from. auto: those of the base model of the preset, or for pages, "
        "where the network is the same; none: random ones; else a version directory, or a directory of versions, of "
        "which the newest is taken",
    )
    warmup_epochs: float = Field(0.5, ge=0, description="epochs in which the learning rate rises")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of AdamW; biases and normalisation are exempt")
    clip_norm: float = Field(5.0, gt=0, description="gradients are clipped to this global norm")
    checkpoint_minutes: float = Field(
        5.0,
        gt=0,
        description="minutes between checkpoints; there is one after each validation, too, unless the last one is "
        "younger than a twentieth of that. A killed training goes on from the last one",
    )

    @field_validator("warm_start")
    @classmethod
    def _none(cls, value: str | None) -> str | None:
        return None if value == "none" else value


class TrainConfig(LoopConfig):
    """How the network is trained."""

    epochs: int | None = Field(
        None,
        ge=1,
        description="passes over the training images, at most; by their number if unset, for 5,000 14 after a warm "
        "start and 30 from random weights",
    )
    batch_size: int = Field(
        16,
        ge=1,
        description="images of one optimiser step; unless epochs is set, larger batches get as many steps, so more "
        "epochs and a longer training; up to 300 epochs, so that a few hundred images get fewer steps",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="peak learning rate, which decays along a cosine to a hundredth; 0.002 if unset, and after a warm "
        "start 0.0005 for 300 images to 0.002 for 4,800",
    )
    shortcut: float = Field(0.3, ge=0, description="weight of the loss of the head that skips the recurrent layers")
    average_epochs: float = Field(1.0, ge=0, description="span of the moving average of the weights that is kept")
    augment: float = Field(0.5, ge=0, le=3, description="strength of the random augmentation; 0 switches it off")
    augmentations: list[Augmentation] = Field(
        ["affine", "elastic", "stroke", "contrast", "noise", "cutout"],
        description="kinds of augmentation that are used; neighbours, too, for lines that are cut out of pages, "
        "sharpness for scans of other sharpness",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="epochs with a clearly worse validation CER before training stops; 40 % of all if unset, five at "
        "least",
    )
    shuffle_buffer: int = Field(4096, ge=1, description="images held in memory for shuffling")
    start_share: Fraction = Field(
        0.3,
        lt=1,
        description="after a warm start, share of the starting weights in the final ones, which keeps what the "
        "start knew; left out where validation is clearly worse with it, or no better than the start "
        "(start_share_checked)",
    )
    start_share_checked: bool = Field(
        True,
        description="whether validation may leave start_share out; false always keeps it, from which other data "
        "may gain",
    )
    clean_statistics: Fraction = Field(
        0.0,
        description="after training, share of the statistics of images as they are in those of batch normalisation, "
        "which training takes of augmented ones; left out where validation is clearly worse with it",
    )
    keep_characters: bool = Field(
        True,
        description="after a warm start, whether characters that the start can write and no training label has stay in "
        "the model, those of data.alphabet where it is set; left out where validation is clearly worse with them",
    )
    freeze: list[Literal["convolutions", "recurrent"]] = Field([], description="layers that keep their weights")
    mixed_precision: bool = Field(True, description="compute in float16 on GPUs that have it; the loss stays float32")
    bfloat16: bool = Field(
        False,
        description="compute in bfloat16 on CPUs with AVX512_BF16 or AMX: 1.25 to 1.4 times as fast; the loss "
        "stays float32",
    )
    # 0 is TensorFlow's none, which takes seeds modulo 2**31 - 1.
    seed: int = Field(1, ge=1, lt=2**31 - 1, description="seed of weights, shuffling and augmentation")

    @property
    def names_start(self) -> bool:
        """Whether the setting names the version to start from: neither `auto` nor none."""
        return self.warm_start not in (None, AUTO)

    @property
    def is_warm(self) -> bool:
        """Whether a version's weights are the start.

        Raises:
            ValueError: The start is still `auto`; `warm_start.settled` says what that comes to.
        """
        if self.warm_start == AUTO:
            raise ValueError("train.warm_start=auto is not settled")
        return self.warm_start is not None


class TuneConfig(Section):
    """Search for better hyper-parameters before training: learning rate, augmentation, dropout, recurrent units."""

    trials: int = Field(
        0,
        ge=0,
        description="short trainings that are compared; each keeps its graph in memory, 50 MB with the smallest "
        "network; 0 leaves the search out",
    )
    epochs: int | None = Field(None, ge=1, description="epochs of each trial; a fifth of the training's if unset")
