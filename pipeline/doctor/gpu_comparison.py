"""`htr doctor --gpu`: what a GPU brings to training and transcribing, and whether it gives the texts of the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Device = Literal["gpu", "cpu"]
# Of the texts of one model in float32; the rounding of other kernels may tip a few that are close.
_MOST_DIFFERENT = 0.02
_IMAGES_PER_SECOND = 30  # to render for each second of training: a slow machine still gets through its epochs
_FEWEST_EPOCHS, _MOST_EPOCHS = 2, 300  # the first one is not measured


class BenchmarkError(RuntimeError):
    """A measurement failed; the message says which one and where its log is."""


@dataclass(frozen=True)
class Training:
    """A training and its figures, as `gpu_benchmark.train` returns them."""

    name: str
    device: Device
    epochs: int
    images: int
    figures: dict[str, Any]

    @property
    def rate(self) -> float:
        """Images per second, validation included."""
        return self.images / self.figures["epoch_seconds"]


@dataclass(frozen=True)
class Transcription:
    """A model's answers on one device in one precision, as `gpu_benchmark.transcribe` returns them."""

    model: str
    device: Device
    precision: str
    figures: dict[str, Any]

    def difference(self, other: Transcription) -> tuple[int, float]:
        """Number of texts that another has differently, and the largest difference of confidence among equal texts."""
        mine, theirs = self.figures, other.figures
        equal = [a == b for a, b in zip(mine["texts"], theirs["texts"], strict=True)]
        confidences = zip(equal, mine["confidences"], theirs["confidences"], strict=True)
        return equal.count(False), max((abs(a - b) for same, a, b in confidences if same), default=0.0)


@dataclass
class Comparison:
    """All measurements.

    Attributes:
        images: Number of images by split.
        trainings: Trainings in the order of the table.
        transcriptions: Transcriptions in the order of the table.
    """

    images: dict[str, int]
    trainings: list[Training] = field(default_factory=list)
    transcriptions: list[Transcription] = field(default_factory=list)

    def reference(self, model: str) -> Transcription:
        """The answers that the others of the same model are compared with: those of the CPU in float32."""
        return next(t for t in self.transcriptions if (t.model, t.device, t.precision) == (model, "cpu", "float32"))

    def problems(self) -> list[str]:
        """What is wrong with the GPU's texts."""
        found = []
        for t in self.transcriptions:
            different, _ = t.difference(self.reference(t.model))
            count = len(t.figures["texts"])
            if t.device == "gpu" and t.precision == "float32" and different > _MOST_DIFFERENT * count:
                found.append(
                    f"The GPU gives {different} of {count} texts of the model {t.model} differently from the CPU: do "
                    "not serve from this card before the reason is known, and please report these tables."
                )
        wanted = [t for t in self.trainings if t.name == "gpu-float16" and t.figures["precision"] != "float16"]
        return found + [f"{t.name} was trained in float32: this GPU has no fast float16." for t in wanted]

    def as_markdown(self) -> str:
        """Two tables to be pasted into a report."""
        lines = [f"Training on {self.images['train']} images of 32 x 128, with validation:", ""]
        lines += [*_table(self._training_rows()), ""]
        lines += [f"Transcribing {self.images['eval']} images of other writers, compared with the CPU in float32:", ""]
        lines += _table(self._transcription_rows())
        return "\n".join(lines)

    def _training_rows(self) -> Iterator[tuple[str, ...]]:
        yield "model", "ran on", "epochs", "images/s", "times the CPU", "CER", "GPU memory"
        slow = next(t.rate for t in self.trainings if t.device == "cpu")
        for t in self.trainings:
            cer, memory = self.reference(t.name).figures["cer"], t.figures["memory"]
            yield (
                t.name, t.figures["device"], f"{t.epochs}", f"{t.rate:.0f}", f"{t.rate / slow:.1f}", f"{cer:.4f}",
                f"{memory / 2**20:.0f} MB" if memory else "",
            )  # fmt: skip

    def _transcription_rows(self) -> Iterator[tuple[str, ...]]:
        yield "model", "device", "precision", "images/s", "ms for one", "CER", "other texts", "confidence differs by"
        for t in self.transcriptions:
            texts, confidence = t.difference(self.reference(t.model))
            yield (
                t.model, t.device, t.precision, f"{t.figures['rate']:.0f}", f"{t.figures['milliseconds']:.1f}",
                f"{t.figures['cer']:.4f}", f"{texts}", f"{confidence:.1e}",
            )  # fmt: skip


def compare(device: Device, seconds: int, tell: Callable[[str], None]) -> Comparison:
    """Trains and transcribes on the devices, in processes of their own.

    Args:
        device: "gpu" for both devices; "cpu" leaves the GPU out.
        seconds: Length of each training, about.
        tell: Function that is given a line about what is done next.

    Returns:
        All measurements.

    Raises:
        BenchmarkError: A measurement failed.
    """
    with tempfile.TemporaryDirectory(prefix="htr-doctor-") as name:
        bench = _Bench(Path(name), 600.0 + 20 * seconds)
        trainings: list[tuple[Device, str]] = [("gpu", "float32"), ("gpu", "float16"), ("cpu", "float32")]
        trainings = [each for each in trainings if device == "gpu" or each[0] == "cpu"]
        tell(f"This takes about {(40 + len(trainings) * (2 * seconds + 60)) / 60:.0f} minutes. Rendering sample data.")
        found = Comparison(bench.do("cpu", "prepare", images=max(_IMAGES_PER_SECOND * seconds, 150)))
        images, epochs = found.images["train"], {}
        for where, precision in trainings:
            model, mixed = f"{where}-{precision}", precision == "float16"
            figures = None
            if where not in epochs:  # the same number in both precisions, for models that can be compared
                tell(f"Measuring how many epochs the {where.upper()} does in {seconds} s")
                figures = bench.do(where, "train", name=model, epochs=_FEWEST_EPOCHS, mixed_precision=mixed)
                epochs[where] = min(max(round(seconds / figures["epoch_seconds"]), _FEWEST_EPOCHS), _MOST_EPOCHS)
            if figures is None or epochs[where] > _FEWEST_EPOCHS:
                tell(f"Training on the {where.upper()} in {precision}, {epochs[where]} epochs")
                figures = bench.do(where, "train", name=model, epochs=epochs[where], mixed_precision=mixed)
            found.trainings.append(Training(model, where, epochs[where], images, figures))
        devices: list[Device] = ["cpu", "gpu"] if device == "gpu" else ["cpu"]
        for model in (training.name for training in found.trainings):
            for where in devices:
                for precision in ("float32", "float16"):
                    tell(f"Transcribing with the model {model} on the {where.upper()} in {precision}")
                    answer = bench.do(
                        where, "transcribe", name=model, precision=precision, seconds=max(seconds / 12, 1)
                    )
                    found.transcriptions.append(Transcription(model, where, precision, answer))
    return found


class _Bench:
    """Starts the processes that measure."""

    def __init__(self, folder: Path, patience: float):
        self.folder, self.patience, self.jobs = folder, patience, 0

    def do(self, device: Device, what: str, **arguments: Any) -> dict[str, Any]:
        self.jobs += 1
        job = self.folder / f"{self.jobs}.json"
        job.write_text(json.dumps({"do": what, **arguments}))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = "-1"
        command = [sys.executable, "-m", "pipeline.doctor.gpu_benchmark", str(job)]
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                timeout=self.patience,
            )  # fmt: skip
            failure = f"ended with code {done.returncode}" if done.returncode else ""
            output = done.stdout
        except subprocess.TimeoutExpired as error:
            # In bytes, although text was asked for.
            failure, output = f"took longer than {self.patience:.0f} s", (error.stdout or b"").decode(errors="replace")
        if failure:
            with tempfile.NamedTemporaryFile("w", prefix="htr-doctor-", suffix=".log", delete=False) as log:
                log.write(output)
            last = (output.strip().splitlines() or [""])[-1]
            named = " ".join([what, *filter(None, [arguments.get("name")])])
            raise BenchmarkError(f"{named} on the {device.upper()} {failure}: {last}\nIts log is {log.name}")
        answer: dict[str, Any] = json.loads(job.with_suffix(".answer").read_text())
        return answer


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, the header first, that can be read as plain text too."""
    filled = list(rows)
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    header, *lines = (
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in filled
    )
    return [header, f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines]
