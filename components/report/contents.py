"""Puts together what a report says, as plain data: numbers, sentences, figures. `report.py` lays it out as a page."""

from __future__ import annotations

import base64
import csv
import importlib.metadata
import io
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from components import storage
from components.evaluator.verdict import Verdict
from components.example_gen import dataset
from components.report import analysis, figures
from components.report.findings import Finding, Findings, some
from components.transform.geometry import COLUMNS_PER_FRAME, resized_width
from htr_client.decoding import Alphabet
from pipeline.config import Config, DataConfig, TransformConfig

PACKAGES = ("htr-pipeline", "htr-client", "tensorflow", "keras", "tfx", "tensorflow-transform",
            "tensorflow-model-analysis", "apache-beam", "numpy", "opencv-python-headless")  # fmt: skip
# Settings that a run's outcome depends on; the rest says where it runs.
SECTIONS = ("name", "data", "transform", "model", "train", "tune", "gate", "push", "card")
FEW_PICTURES = 300
REJECTS_SHOWN = 3


@dataclass
class Split:
    """What one split holds.

    Attributes:
        samples: number of pictures.
        writers: pictures by writer; those of unknown writers under "".
        characters: occurrences in the labels.
        numbers: float32 [samples] by name in `dataset.NUMBERS`.
        pictures: first label and id by SHA-256 of the picture's file.
    """

    samples: int = 0
    writers: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[bytes, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """How a model read one picture, frame by frame.

    Attributes:
        picture: encoded.
        probabilities: float32 [frames, C] of the valid frames; the blank is the last class.
        alphabet: of the model.
        read: characters of the prediction with confidence and span as shares of the picture's width.
        truth: characters of the label that the model can write, with span and highest probability in it; empty where
            the frames cannot carry the label.
    """

    picture: bytes
    probabilities: np.ndarray
    alphabet: Alphabet
    read: list[tuple[str, float, tuple[float, float]]]
    truth: list[tuple[str, float, tuple[float, float]]]


@dataclass(frozen=True)
class Material:
    """Everything that a report is made of.

    Attributes:
        config: of the run.
        verdict: of the Evaluator.
        predictions: table of predictions on the evaluation split.
        splits: what each split holds.
        digest: of the data.
        alphabet: of the model, in class order.
        settings: that the model was trained with (`htr.json`).
        model_bytes: size of the weights.
        readings: close looks at the pictures that are shown, by row of `predictions`.
        history: of the training, by epoch.
        counts: of ExampleGen: `accepted`, `rejected`, `notes`.
        rejects: rows of `rejects.csv`.
        anomalies: (severity, sentence) of ExampleValidator.
        augmented: a sheet of distorted training pictures as PNG, if the Trainer wrote one.
        run_id: of the orchestrator.
    """

    config: Config
    verdict: Verdict
    predictions: pd.DataFrame
    splits: Mapping[str, Split]
    digest: str
    alphabet: Sequence[str]
    settings: Mapping[str, Any]
    model_bytes: int
    readings: Mapping[int, Reading]
    history: Sequence[Mapping[str, float]]
    counts: Mapping[str, Any]
    rejects: Sequence[Mapping[str, str]] = ()
    anomalies: Sequence[tuple[str, str]] = ()
    augmented: bytes | None = None
    run_id: str = ""


def build(material: Material) -> dict[str, Any]:
    """The contents of a report.

    Args:
        material: what it is made of.

    Returns:
        A tree of dictionaries, lists, strings and numbers, ready for JSON and for `report.html.j2`.
    """
    m, level = material, material.config.gate.confidence_level
    predictions = m.predictions
    in_training = m.splits["train"].characters if "train" in m.splits else Counter()
    characters = analysis.Characters.of(predictions)
    calibration = analysis.calibration(predictions)
    contents: dict[str, Any] = {
        "run_id": m.run_id,
        "name": m.config.name,
        "verdict": m.verdict.as_dict(),
        "bounds": bounds(m.verdict, m.config),
        "level": level,
        "character": analysis.rates(analysis.errors_of(predictions), level),
        "word": analysis.rates(analysis.errors_of(predictions, "word"), level),
        "comparison": _comparison(predictions, level),
        "slices": analysis.slices(predictions, level),
        "calibration": calibration,
        "review": analysis.review(predictions),
        "coverage": analysis.coverage(predictions, m.alphabet, in_training),
        "characters": characters.table(in_training, m.alphabet),
        "replaced": [{"truth": a, "read": b, "count": n} for (a, b), n in characters.replaced.most_common(15)],
        "inserted": characters.inserted.most_common(10),
        "deleted": characters.deleted.most_common(10),
        "cases": _cases(m),
        "data": _data(m),
        "training": {
            "history": list(m.history),
            "best_validation_cer": m.settings.get("best_validation_cer"),
            "augmented": f"data:image/png;base64,{base64.b64encode(m.augmented).decode()}" if m.augmented else None,
        },
        "model": {"alphabet": "".join(m.alphabet), "bytes": m.model_bytes, "transform": m.settings["transform"]},
        # The Tuner may have changed what the run was told.
        "config": m.config.model_dump(mode="json", include=set(SECTIONS))
        | {section: m.settings[section] for section in ("model", "train")},
        "versions": versions(),
    }
    contents["findings"] = [vars(finding) for finding in findings(m, contents)]
    contents["figures"] = _figures(m, characters, calibration)
    return contents


def bounds(verdict: Verdict, config: Config) -> list[dict[str, Any]]:
    """Every bound of the gate with what was measured, in words; `met` is the Evaluator's own decision.

    Returns:
        Rows of `setting`, `what`, `value` and `bound` (rates; None where there is nothing to compare), `met`.
    """

    def missed(metric: str, where: str, kind: str) -> bool:
        return any((f.metric, f.slice, f.kind) == (metric, where, kind) for f in verdict.failures)

    metrics, baseline = verdict.metrics, verdict.baseline
    rows: list[dict[str, Any]] = [
        {"setting": "gate.max_cer", "what": f"upper end of the CER's {100 * config.gate.confidence_level:g} % interval",
         "value": metrics["cer_high"], "bound": config.gate.max_cer,
         "met": not missed("cer_high", "all", "bound")},
        {"setting": "gate.max_cer_increase", "what": "CER against the last blessed model, same pictures",
         "value": metrics["cer"] - baseline["cer"] if baseline else None, "bound": config.gate.max_cer_increase,
         "met": not missed("cer", "all", "change") if baseline else None},
    ]  # fmt: skip
    for name, bound in sorted(config.gate.slice_max_cer.items()):
        column, equals, value = name.partition("=")
        wanted = [f"{column} = {value}"] if equals else [s for s in verdict.slices if s.startswith(f"{column} = ")]
        found = [(verdict.slices[s]["cer"], s) for s in wanted if s in verdict.slices]
        worst, where = max(found, default=(None, name))
        rows.append(
            {"setting": "gate.slice_max_cer", "what": f"CER for {where}" + (", the worst of its kind" if not equals
             else ""), "value": worst, "bound": bound,
             "met": not (any(missed("cer", s, "bound") for _, s in found)
                         or any(missed("samples", s, "missing") for s in (column, *wanted)))}
        )  # fmt: skip
    return rows


def _comparison(predictions: pd.DataFrame, level: float) -> dict[str, Any] | None:
    paired = analysis.paired_errors(predictions)
    if paired is None:
        return None
    low, high = paired.interval(level)
    before, after = predictions["baseline_edits"], predictions["edits"]
    return {
        "baseline": analysis.rates(analysis.errors_of(predictions, baseline=True), level),
        "difference": paired.difference, "low": low, "high": high, "p_value": paired.p_value,
        "better": int((after < before).sum()), "worse": int((after > before).sum()),
        "same_text": int((predictions["prediction"] == predictions["baseline"]).sum()),
    }  # fmt: skip


def _cases(m: Material) -> dict[str, list[dict[str, Any]]]:
    chosen = analysis.choose_cases(m.predictions)
    elsewhere = dict(analysis.suspicious(m.predictions)["label_elsewhere"])
    transform = TransformConfig.model_validate(m.settings["transform"])
    cases: dict[str, list[dict[str, Any]]] = {}
    for group, places in chosen.items():
        cases[group] = []
        for place in places:
            row = m.predictions.loc[place]
            svg, width = "", 0
            if place in m.readings:
                reading = m.readings[place]
                columns = resized_width(int(row["width"]), int(row["height"]), transform)
                used = columns / max(len(reading.probabilities) * COLUMNS_PER_FRAME, 1)
                svg, width = figures.alignment(
                    reading.picture, reading.probabilities, reading.alphabet, reading.read, reading.truth, used
                )
            case = {name: row[name] for name in ("id", "writer", "text", "prediction")}
            case |= {"confidence": float(row["confidence"]), "edits": int(row["edits"]), "length": int(row["length"])}
            case |= {"steps": analysis.edit_steps(row["text"], row["prediction"]), "svg": svg, "width": width}
            case["baseline"] = row["baseline"] if row["baseline_edits"] >= 0 else None
            case["elsewhere"] = bool(elsewhere.get(place, False))
            cases[group].append(case)
    return cases


def _data(m: Material) -> dict[str, Any]:
    splits = {}
    for name, split in m.splits.items():
        lengths = split.numbers["text_length"]
        splits[name] = {
            "samples": split.samples,
            "writers": len([writer for writer in split.writers if writer]),
            "characters": int(sum(split.characters.values())),
            "distinct_characters": len(split.characters),
            **{f"median_{column}": float(np.median(split.numbers[column])) if split.samples else None
               for column in ("text_length", "width", "height")},
            "longest": int(lengths.max()) if split.samples else None,
        }  # fmt: skip
    return {
        "digest": m.digest,
        "folders": [os.path.basename(os.path.normpath(path)) for path in m.config.data.paths],
        "splits": splits,
        "rejected": _rejected(m),
        "rejected_rows": sum(m.counts["rejected"].values()),
        "rows": sum(m.counts["rejected"].values()) + sum(m.counts["accepted"].values()),
        "notes": list(m.counts["notes"]),
    }


def _rejected(m: Material) -> list[dict[str, Any]]:
    """Rejected rows by reason with a few examples, and their pictures where they can be shown."""
    tables = _tables(m.config.data)
    groups = []
    for reason, count in sorted(m.counts["rejected"].items(), key=lambda item: -item[1]):
        rows = [row for row in m.rejects if row["reason"] == reason][:REJECTS_SHOWN]
        examples = [{**row, "picture": _picture(row, tables)} for row in rows]
        groups.append({"reason": reason, "count": count, "examples": examples})
    return groups


def _tables(data: DataConfig) -> dict[str, dataset.Table]:
    try:
        return {table.name: table for table in dataset.find_tables(data)[0]}
    except (dataset.DatasetError, OSError):  # the data was read on another machine
        return {}


def _picture(row: Mapping[str, str], tables: Mapping[str, dataset.Table]) -> str | None:
    if row["reason"].startswith("picture_"):  # which cannot be shown
        return None
    try:
        with storage.open_file(dataset.resolve_image(row["image"].strip(), tables[row["csv"]])) as file:
            shown = figures.thumbnail(file.read(), 320, 64)
    except (KeyError, OSError, dataset.Rejected):
        return None
    return shown[0] if shown else None


def findings(m: Material, contents: Mapping[str, Any]) -> list[Finding]:
    """What a person should know first: problems before notes.

    Args:
        m: what the report is made of.
        contents: numbers that `build` has computed from it.
    """
    result = Findings()
    _check_splits(m, result)
    _check_labels(m, result)
    _check_characters(contents["coverage"], result)
    _check_figures(m, contents, result)
    _check_training(m, result)
    for severity, sentence in m.anomalies:
        (result.problem if severity == "ERROR" else result.note)("anomaly", f"Data statistics: {sentence}.")
    rejected, rows = contents["data"]["rejected_rows"], contents["data"]["rows"]
    if rejected > 0.02 * rows:
        result.note("rejected", f"{rejected} of {rows} rows ({rejected / rows:.1%}) were rejected.",
                    "See the reasons below; often one cause explains most of them.")  # fmt: skip
    return result.sorted()


def _check_splits(m: Material, result: Findings) -> None:
    judged, learnt = m.splits.get("eval", Split()), [m.splits[s] for s in ("train", "validation") if s in m.splits]
    shared = {w for split in learnt for w in split.writers if w} & set(judged.writers)
    if shared:
        pictures = sum(judged.writers[writer] for writer in shared)
        result.problem(
            "leaked_writers",
            f"Writers of the evaluation split who also wrote training pictures: {some(sorted(shared))} ({pictures} of "
            f"{judged.samples} evaluation pictures). The error on unknown hands is higher than measured.",
            "Split by writer: drop the split column or file names that give the splits, and name the writer column.",
        )
    seen = [judged.pictures.keys() & split.pictures.keys() for split in learnt]
    leaked = sorted(set().union(*seen))
    if leaked:
        names = some([judged.pictures[picture][1] for picture in leaked], 3)
        result.problem(
            "leaked_pictures",
            f"Evaluation pictures that are also among the training pictures: {len(leaked)} ({names}). "
            f"The figures are too good.",
            "`htr check` lists them; keep each picture in one split.",
        )
    known = {writer for split in m.splits.values() for writer in split.writers if writer}
    if not known:
        result.note("no_writers", "No writers are named, so a hand may be in training and evaluation: the error on "
                    "unknown hands is probably higher than measured.", "Add a writer column.")  # fmt: skip


def _check_labels(m: Material, result: Findings) -> None:
    doubtful = analysis.suspicious(m.predictions)
    sure = int((m.predictions["confidence"] >= analysis.SURE).sum())
    if len(doubtful) < 3 or len(doubtful) < 0.01 * sure:
        return
    elsewhere = int(doubtful["label_elsewhere"].sum())
    swapped = f", and {elsewhere} times that is exactly the label of another picture" if elsewhere else ""
    (result.problem if len(doubtful) > 0.03 * sure else result.note)(
        "suspicious_labels",
        f"About {len(doubtful) / sure:.0%} of the labels look wrong: of {sure} pictures that were read with a "
        f"confidence of {analysis.SURE:g} or more, {len(doubtful)} say something wholly different from their "
        f"label{swapped}.",
        "Look at the pictures with doubtful labels below. " + ("Were rows swapped or shifted?" if elsewhere else ""),
    )


def _check_characters(coverage: Mapping[str, Any], result: Findings) -> None:
    if coverage["unknown"]:
        shown = some([f"{figures.visible(u['character'])} ({u['occurrences']})" for u in coverage["unknown"]], 12)
        result.problem(
            "new_characters",
            f"Characters of the evaluation labels that are not in the model's alphabet, so that it can never write "
            f"them: {shown}.",
            "Add training pictures with these characters, or keep such labels out of the evaluation split.",
        )
    if coverage["rare"]:
        shown = some([f"{figures.visible(c)} ({n})" for c, n in coverage["rare"].items()], 16)
        result.note("rare_characters", f"Characters that occur fewer than {analysis.RARE} times in the training labels "
                    f"and are hardly learnt: {shown}.")  # fmt: skip


def _check_figures(m: Material, contents: Mapping[str, Any], result: Findings) -> None:
    measured, judged = contents["character"], m.verdict.metrics
    if measured["rate"] != judged["cer"] and not math.isnan(judged["cer"]):
        result.problem(
            "disagreement",
            f"The report's own reading gives a CER of {measured['rate']:.6f}, the Evaluator {judged['cer']:.6f}: the "
            "model does not read the same pictures the same way twice.",
            "The verdict rests on the Evaluator. Please report this with the two files of the model.",
        )
    if measured["samples"] < FEW_PICTURES:
        result.note("few_pictures", f"The figures rest on {measured['samples']} pictures only; see how wide the "
                    "intervals are.", "Evaluate on more, with data.eval_fraction or more data.")  # fmt: skip
    for group in contents["slices"]:
        if group["name"] == "source" or group["name"] in analysis.BY_QUARTER or group["name"] == "writer":
            bad = [r for r in group["rows"] if r["worse"] and r["samples"] >= 20 and r["rate"] > 1.5 * measured["rate"]]
            for row in bad[:2]:
                result.note(
                    "weak_slice",
                    f"{group['title'].capitalize()} {row['value']}: CER {row['rate']:.1%} against "
                    f"{measured['rate']:.1%} overall, {row['share']:.0%} of all errors on "
                    f"{row['samples'] / measured['samples']:.0%} of the pictures.",
                )
    gap = contents["calibration"]["gap"]
    if abs(gap) > 0.05:
        word = "too high" if gap > 0 else "too low"
        result.note("calibration", f"Confidence is {abs(gap):.0%} {word} on average.",
                    "Choose a threshold for review from the table below, not from the number itself.")  # fmt: skip


def _check_training(m: Material, result: Findings) -> None:
    cer = [entry["validation_cer"] for entry in m.history]
    if len(cer) >= 5 and int(np.argmin(cer)) >= len(cer) - 2 and cer[-1] < 0.95 * cer[len(cer) * 3 // 4]:
        result.note("still_learning", "The validation CER was still falling when training ended.",
                    "More epochs will probably help: train.epochs.")  # fmt: skip


def _figures(m: Material, characters: analysis.Characters, calibration: Mapping[str, Any]) -> dict[str, str]:
    p = m.predictions
    names, counts = characters.matrix()
    plots = {
        "reliability": figures.reliability(calibration),
        "review": figures.review_curve(p["confidence"].to_numpy(), p["edits"].to_numpy(), p["length"].to_numpy()),
        "distributions": figures.distributions({name: split.numbers for name, split in m.splits.items()}),
    }
    plots["curves"] = figures.learning_curves(m.history) if m.history else ""
    plots["confusion"] = figures.confusion_matrix(names, counts) if names else ""
    return plots


def versions() -> dict[str, str]:
    """Versions of what a model depends on, by name; packages that are not installed are left out."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def metrics(contents: Mapping[str, Any]) -> dict[str, Any]:
    """The machine-readable part of a report, strict JSON: what is not a number is null."""
    verdict = contents["verdict"]
    data = contents["data"]
    return _strict(
        {
            "run": contents["run_id"], "name": contents["name"],
            "blessed": verdict["blessed"],
            "bounds": contents["bounds"], "metrics": verdict["metrics"], "baseline": verdict["baseline"],
            "comparison": contents["comparison"], "slices": verdict["slices"],
            "calibration": contents["calibration"], "review": contents["review"],
            "findings": contents["findings"],
            "data": {"digest": data["digest"], "folders": data["folders"], "splits": data["splits"],
                     "rejected": {group["reason"]: group["count"] for group in data["rejected"]}},
            "alphabet": contents["model"]["alphabet"], "versions": contents["versions"], "config": contents["config"],
        }
    )  # fmt: skip


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_rejects(content: bytes) -> list[dict[str, str]]:
    """Rows of a `rejects.csv`."""
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))
