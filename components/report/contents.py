"""Puts together what a report says, as plain data: numbers, sentences, figures. `html.py` lays it out as a page."""

from __future__ import annotations

import base64
import csv
import importlib.metadata
import io
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from components.common.metrics import PairedErrors
from components.evaluator.verdict import BOUND_DIGITS, GATE_BOUNDS, GateBound, Verdict
from components.example_gen.folders import find_tables
from components.example_gen.images import resolve_image
from components.example_gen.rejects import Rejected, is_unreadable_image
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError, Table
from components.language.texts import started_from
from components.report import analysis, figures
from components.report.html import switched_off
from components.report.material import Material
from components.report.next_steps import next_steps
from components.report.run_findings import findings
from components.report.settings import RunSettings
from components.transform.geometry import resized_width
from components.transform.settings import TransformConfig
from htr_client.model_facts import COLUMNS_PER_FRAME

PACKAGES = ("htr-pipeline", "htr-client", "tensorflow", "keras", "tfx", "tensorflow-transform",
            "tensorflow-model-analysis", "apache-beam", "numpy", "opencv-python-headless")  # fmt: skip
REJECTS_SHOWN = 3


def build(material: Material) -> dict[str, Any]:
    """The contents of a report.

    Args:
        material: What it is made of.

    Returns:
        A tree of dictionaries, lists, strings and numbers, ready for JSON and for `report.html.j2`: the `facts` and
        their `figures`.
    """
    characters = analysis.Characters.of(material.predictions)
    found = facts(material, characters)
    return {**found, "figures": _figures(material, characters, found["calibration"])}


def facts(material: Material, characters: analysis.Characters) -> dict[str, Any]:
    """The contents of a report without its plots, which take ten times as long as everything else.

    Args:
        material: What it is made of.
        characters: Counts of right and wrong characters in its predictions.

    Returns:
        As `build`, without `figures`.
    """
    m, level = material, material.config.gate.confidence_level
    predictions = m.predictions
    in_training = m.splits["train"].characters if "train" in m.splits else Counter()
    contents: dict[str, Any] = {
        "run_id": m.run_id,
        "name": m.config.name,
        "verdict": m.verdict.as_dict(),
        "against": against(m.verdict),
        "bounds": bounds(m.verdict, m.config),
        "level": level,
        "character": analysis.rates(analysis.errors_of(predictions), level),
        "word": analysis.rates(analysis.errors_of(predictions, "word"), level),
        "comparison": _comparison(predictions, level),
        "language_model": _language_model(m, level),
        "slices": analysis.slices(predictions, level),
        "writer_range": analysis.writer_range(predictions),
        "calibration": analysis.calibration(predictions),
        "review": analysis.review(predictions),
        "coverage": analysis.coverage(
            predictions, m.alphabet, in_training, m.settings.get("start", {}).get("alphabet", [])
        ),
        "characters": characters.table(in_training, m.alphabet),
        "replaced": [{"truth": a, "read": b, "count": n} for (a, b), n in characters.replaced.most_common(15)],
        "inserted": characters.inserted.most_common(10),
        "deleted": characters.deleted.most_common(10),
        "empty": int(((predictions["prediction"] == "") & (predictions["text"] != "")).sum()),
        "cases": _cases(m),
        "data": _data(m),
        "training": {
            "start": m.settings.get("start", {}).get("name"),
            "seen_before": m.seen_before.get("start", 0),
            "history": list(m.history),
            "best_validation_cer": m.settings.get("best_validation_cer"),
            "trained_validation_cer": m.settings.get("training", {}).get("best_validation_cer"),
            "base_validation_cer": m.settings.get("training", {}).get("base_validation_cer"),
            "augmented": f"data:image/png;base64,{base64.b64encode(m.augmented).decode()}" if m.augmented else None,
        },
        "model": {"alphabet": "".join(m.alphabet), "bytes": m.model_bytes, "transform": m.settings["transform"]},
        "baseline_model": {"alphabet": "".join(m.baseline["alphabet"]), "transform": m.baseline["transform"]}
        if m.baseline
        else None,
        # The Tuner may have changed what the run was told.
        "config": m.config.model_dump(mode="json") | {section: m.settings[section] for section in ("model", "train")},
        "versions": versions(),
    }
    contents["findings"] = [vars(finding) for finding in findings(m, contents)]
    contents["next_steps"] = next_steps(contents)
    return contents


def against(verdict: Verdict) -> str:
    """The baseline in words."""
    return str(verdict.compared_with or "the model before")


def bounds(verdict: Verdict, config: RunSettings) -> list[dict[str, Any]]:
    """Every bound of the gate with what was measured, in words; `met` is the Evaluator's own decision.

    Returns:
        Rows of `setting`, `what`, `value` and `bound` (rates; None where there is nothing to compare, or the bound is
        off), `met`; for a bound of slices also `slice`, the feature by which they are made.
    """
    rows: list[dict[str, Any]] = []
    for bound in GATE_BOUNDS:
        allowed = bound.allowed(config.gate)
        if bound.by_slice:
            rows += [_bound_of(name, value, bound, verdict) for name, value in sorted(allowed.items())]
            continue
        value: float | None = verdict.metrics[bound.metric]
        what = bound.what.replace("interval", f"{100 * config.gate.confidence_level:g} % interval")
        if bound.kind == "change":
            before = verdict.baseline
            value = verdict.metrics[bound.metric] - before[bound.metric] if before else None
            what = f"{bound.what} against {against(verdict)}; same images"
        asked = value is not None and allowed is not None
        met = not any(f.misses(bound) for f in verdict.failures) if asked else None
        rows.append({"setting": bound.setting, "what": what, "value": value, "bound": allowed, "met": met})
    return rows


def _bound_of(name: str, allowed: float, bound: GateBound, verdict: Verdict) -> dict[str, Any]:
    """The row of one slice such as "writer=7", or of all those that a feature makes."""
    column, equals, value = name.partition("=")
    wanted = [f"{column} = {value}"] if equals else [s for s in verdict.slices if s.startswith(f"{column} = ")]
    found = [(verdict.slices[s][bound.metric], s) for s in wanted if s in verdict.slices]
    worst, where = max(found, default=(None, name))
    # A slice may have two bounds, that of its feature and its own: it is the missed one's value that tells them apart.
    here, limit = [s for _, s in found], round(allowed, BOUND_DIGITS)
    missed = [f for f in verdict.failures if f.misses(bound) and f.slice in here and f.bound == limit]
    missed += [f for f in verdict.failures if f.kind == "missing" and f.slice in (column, *wanted)]
    return {
        "setting": bound.setting, "slice": column,
        "what": f"{bound.what} for {where}" + (", the worst of its kind" if not equals else ""),
        "value": worst, "bound": allowed, "met": not missed,
    }  # fmt: skip


def _comparison(predictions: pd.DataFrame, level: float) -> dict[str, Any] | None:
    paired = analysis.paired_errors(predictions)
    if paired is None:
        return None
    return {
        "baseline": analysis.rates(analysis.errors_of(predictions, baseline=True), level),
        **_difference(paired, predictions, "baseline_edits", level),
        "differs": paired.differs(level),
        "same_text": int((predictions["prediction"] == predictions["baseline"]).sum()),
    }


def _difference(paired: PairedErrors, predictions: pd.DataFrame, before: str, level: float) -> dict[str, float]:
    """The paired difference, and how many images are transcribed better and worse than the column `before` says."""
    low, high = paired.interval(level)
    edits, others = predictions["edits"], predictions[before]
    return {"difference": paired.difference, "low": low, "high": high, "p_value": paired.p_value,
            "better": int((edits < others).sum()), "worse": int((edits > others).sum())}  # fmt: skip


def _language_model(m: Material, level: float) -> dict[str, Any] | None:
    """What the version's language model is and brings; None where the run was told to leave it out.

    Returns:
        The facts of the settings file, whether it has learnt from the `base_texts`, and CER `with` and `without` it by
        the Evaluator. Where the predictions are those with it, also the paired `difference` with `low`, `high` and
        `p_value`, and how many images are transcribed `better` and `worse`.
    """
    facts = m.settings.get("language_model")
    if facts is None:
        return None
    metrics = m.verdict.metrics
    found = {
        "base_texts": m.config.language.base_texts and started_from(m.settings) is not None, **facts,
        "with": metrics.get("cer_default"), "without": metrics.get("cer_best_path"),
    }  # fmt: skip
    paired = analysis.paired_errors(m.predictions, "best_path_edits")
    if m.config.gate.decoder == "default" and facts["weight"] and paired is not None:
        found |= _difference(paired, m.predictions, "best_path_edits", level)
    return found


def _cases(m: Material) -> dict[str, list[dict[str, Any]]]:
    chosen = analysis.choose_cases(m.predictions)
    elsewhere = dict(analysis.suspect_labels(m.predictions)["label_elsewhere"])
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
                    reading.image, reading.probabilities, reading.alphabet, reading.read, reading.truth, used
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
            "by_model": m.counts.get("by_model", {}).get(name, 0),
            "writers": len([writer for writer in split.writers if writer]),
            "known_writers": len(m.shared_writers) if name == "eval" else 0,
            "without_writer": split.writers[""],
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
        "unalignable": m.unalignable,
    }


def _rejected(m: Material) -> list[dict[str, Any]]:
    """Rejected rows by reason with a few examples, and their images where they can be shown."""
    tables = _tables(m.config.data)
    groups = []
    for reason, count in sorted(m.counts["rejected"].items(), key=lambda item: -item[1]):
        rows = [row for row in m.rejects if row["reason"] == reason][:REJECTS_SHOWN]
        examples = [{**row, "image_shown": _image(row, tables)} for row in rows]
        groups.append({"reason": reason, "count": count, "examples": examples})
    return groups


def _tables(data: DataConfig) -> dict[str, Table]:
    try:
        return {table.name: table for table in find_tables(data)[0]}
    except (DatasetError, OSError):  # the data was read on another machine
        return {}


def _image(row: Mapping[str, str], tables: Mapping[str, Table]) -> str | None:
    if is_unreadable_image(row["reason"]):  # which cannot be shown
        return None
    try:
        path = resolve_image(row["image"].strip(), tables[row["csv"]])
    except (KeyError, OSError, Rejected):
        return None
    return figures.thumbnail_of(path, 320, 64) or None


def _figures(m: Material, characters: analysis.Characters, calibration: Mapping[str, Any]) -> dict[str, str]:
    p = m.predictions
    names, counts = characters.matrix()
    plots = {
        "reliability": figures.reliability(calibration),
        "review": figures.review_curve(p["confidence"].to_numpy(), p["edits"].to_numpy(), p["length"].to_numpy()),
        "distributions": figures.distributions({name: split.numbers for name, split in m.splits.items()}),
    }
    kept = m.settings.get("training", {}).get("best_epoch")
    plots["curves"] = figures.learning_curves(m.history, kept) if m.history else ""
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
            "compared_with": verdict["compared_with"], "off": switched_off(contents),
            "next_steps": contents["next_steps"], "comparison": contents["comparison"],
            "language_model": contents["language_model"], "slices": verdict["slices"],
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
