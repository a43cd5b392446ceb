"""Where a model fails and whether its confidence can be trusted: everything that a table of predictions can tell.

A table of predictions is a pandas DataFrame with one row an image of the evaluation split and the columns `COLUMNS`.
Errors are counted by `components.common.metrics` only. No TensorFlow here.
"""

from __future__ import annotations

import csv
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein

from components.common.metrics import ErrorCounts, PairedErrors, Unit, edits_and_length

TEXT_COLUMNS = ("id", "source", "writer", "length_band", "text", "prediction", "best_path", "baseline")
NUMBER_COLUMNS = ("confidence", "width", "height", "paper_level", "ink_level", "ink_share", "sharpness")
COUNT_COLUMNS = ("edits", "length", "word_edits", "words", "best_path_edits", "baseline_edits")
COLUMNS = (*TEXT_COLUMNS, *NUMBER_COLUMNS, *COUNT_COLUMNS)

BY_NAME = {"writer": "writer", "length_band": "length of the text (characters)", "source": "data folder"}
BY_QUARTER = {
    "height": "height of the image (px)",
    "contrast": "contrast of ink and paper (grey levels)",
    "sharpness": "sharpness",
    "ink_share": "share of dark pixels",
    "columns_per_character": "width over height per character",
}
SHOWN_SLICES = 40
# A model that is right about an image differs from a good label in no or few characters.
SURE, WHOLLY_DIFFERENT = 0.5, 0.5
RARE = 10
LEAST_IN_SLICE = 20  # images below which a slice is not called worse: chance makes too many of the small ones so
LEAST_CALIBRATED = 100  # images below which the expected calibration error is mostly noise
LEAST_IN_BIN = 30  # images whose share of right texts says something
MOST_BINS = 10  # of confidence
REVIEWED = (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # shares of the images that a person may look at
CONFUSED = 18  # characters of the confusion matrix
WORST, TYPICAL, SUSPECT = 12, 12, 8  # images to look at


def count_edits(predictions: pd.DataFrame, compared: bool) -> pd.DataFrame:
    """Adds the count columns to a table that has the texts.

    Args:
        predictions: Table with `text`, `prediction`, `best_path` and `baseline`.
        compared: Whether `baseline` holds texts of the baseline.

    Returns:
        A copy with `COUNT_COLUMNS`; `baseline_edits` is -1 where there is no such model.
    """
    counted = predictions.copy()
    pairs = list(zip(counted["text"], counted["prediction"], strict=True))
    counted[["edits", "length"]] = np.array([edits_and_length(t, p) for t, p in pairs], np.int64).reshape(-1, 2)
    words = np.array([edits_and_length(t, p, "word") for t, p in pairs], np.int64).reshape(-1, 2)
    counted[["word_edits", "words"]] = words
    for name, known in (("best_path", True), ("baseline", compared)):
        counted[f"{name}_edits"] = [
            edits_and_length(text, other)[0] if known else -1
            for text, other in zip(counted["text"], counted[name], strict=True)
        ]
    return counted


def errors_of(predictions: pd.DataFrame, unit: Unit = "character", baseline: bool = False) -> ErrorCounts:
    """The error counts of a table, from which rate and interval follow.

    Args:
        predictions: Table of predictions.
        unit: Characters or words.
        baseline: Whether they are those of the baseline instead (characters only).
    """
    edits, length = ("word_edits", "words") if unit == "word" else ("baseline_edits" if baseline else "edits", "length")
    return ErrorCounts(Counter(zip(predictions[edits].tolist(), predictions[length].tolist(), strict=True)))


def paired_errors(predictions: pd.DataFrame, before: str = "baseline_edits") -> PairedErrors | None:
    """Errors before and those of the predictions on the same images; None where there is nothing before.

    Args:
        predictions: Table of predictions.
        before: Column with the errors of what the predictions are compared with.
    """
    if predictions.empty or (predictions[before] < 0).any():
        return None
    columns = (predictions[name].tolist() for name in (before, "edits", "length"))
    return PairedErrors(Counter(zip(*columns, strict=True)))


def rates(errors: ErrorCounts, level: float) -> dict[str, float]:
    """Rate, interval and counts of errors under the names that the report uses."""
    low, high = errors.interval(level)
    return {"rate": errors.rate, "low": low, "high": high, "samples": errors.samples, "edits": errors.edits,
            "length": errors.length, "exact": errors.exact}  # fmt: skip


def edit_steps(truth: str, prediction: str) -> list[tuple[str, str, str]]:
    """A shortest way from truth to prediction, as (kind, character of the truth, character of the prediction).

    "delete" is a character of the truth that was not read, "insert" one that was read but is not there. The number of
    steps that are not "equal" is the edit distance.
    """
    truth, prediction = (unicodedata.normalize("NFC", text) for text in (truth, prediction))
    steps: list[tuple[str, str, str]] = []
    for block in Levenshtein.opcodes(truth, prediction):
        old, new = truth[block.src_start : block.src_end], prediction[block.dest_start : block.dest_end]
        steps += [(block.tag, a, b) for a, b in itertools.zip_longest(old, new, fillvalue="")]
    return steps


@dataclass
class Characters:
    """How single characters were read.

    Attributes:
        seen: Occurrences in the references.
        right: Occurrences that were read right.
        replaced: Number of replacements, by (truth, read).
        deleted: Characters of the truth that were not read.
        inserted: Characters that were read but are not there.
    """

    seen: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    replaced: Counter[tuple[str, str]] = field(default_factory=Counter)
    deleted: Counter[str] = field(default_factory=Counter)
    inserted: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, predictions: pd.DataFrame) -> Characters:
        """Counts all images of a table."""
        counts = cls()
        for text, prediction in zip(predictions["text"], predictions["prediction"], strict=True):
            for kind, old, new in edit_steps(text, prediction):
                if old:
                    counts.seen[old] += 1
                if kind == "equal":
                    counts.right[old] += 1
                elif kind == "replace":
                    counts.replaced[old, new] += 1
                elif kind == "delete":
                    counts.deleted[old] += 1
                else:
                    counts.inserted[new] += 1
        return counts

    def table(self, in_training: Counter[str], alphabet: Iterable[str]) -> list[dict[str, Any]]:
        """One row a character of references or alphabet, most errors first."""
        missed = {c: self.seen[c] - self.right[c] for c in self.seen}
        rows = [
            {"character": c, "seen": self.seen[c], "wrong": missed.get(c, 0),
             "rate": missed[c] / self.seen[c] if self.seen[c] else None, "deleted": self.deleted[c],
             "inserted": self.inserted[c], "in_training": in_training[c], "known": c in alphabet}
            for c in sorted({*self.seen, *self.inserted, *alphabet})
        ]  # fmt: skip
        return sorted(rows, key=lambda row: (-row["wrong"] - row["inserted"], row["character"]))

    def matrix(self) -> tuple[list[str], np.ndarray]:
        """The confusion matrix of the characters that are most often taken for others, `CONFUSED` at most.

        Returns:
            The n characters, and counts int [n, n + 1] of truth by read; the last column counts deletions.
        """
        weight: Counter[str] = Counter()
        for (old, new), count in self.replaced.items():
            weight[old] += count
            weight[new] += count
        characters = sorted(c for c, _ in sorted(weight.items(), key=lambda item: (-item[1], item[0]))[:CONFUSED])
        counts = np.zeros((len(characters), len(characters) + 1), int)
        for i, old in enumerate(characters):
            counts[i, i] = self.right[old]
            counts[i, -1] = self.deleted[old]
            for j, new in enumerate(characters):
                if i != j:
                    counts[i, j] = self.replaced[old, new]
        return characters, counts


def slices(predictions: pd.DataFrame, level: float) -> list[dict[str, Any]]:
    """Error rates by writer, length, source and image quality.

    Args:
        predictions: Table of predictions.
        level: Level of the intervals.

    Returns:
        Groups `{"name", "title", "rows", "left_out"}`; a row has `value`, the keys of `rates`, `share` of all edits,
        `baseline` (rate or None) and `worse`: the interval of `LEAST_IN_SLICE` images at least lies above the overall
        rate. Rows of a group with names stand worst first, those of a group with quarters in order. Groups with a
        single value are left out.
    """
    overall, total = errors_of(predictions).rate, max(int(predictions["edits"].sum()), 1)
    compared = paired_errors(predictions) is not None
    groups = []
    for name, title, keys in _keys(predictions):
        parts = [
            (value, predictions.loc[rows])
            for value, rows in keys.groupby(keys, observed=True).groups.items()
            if len(rows)
        ]
        if len(parts) < 2:
            continue
        by_name = name in BY_NAME and name != "length_band"
        if by_name:  # what costs most stands first
            parts.sort(key=lambda part: overall * part[1]["length"].sum() - part[1]["edits"].sum())
        rows = []
        for value, part in parts[:SHOWN_SLICES]:
            row: dict[str, Any] = {"value": str(value) or "unknown", **rates(errors_of(part), level)}
            row["share"] = row["edits"] / total
            row["baseline"] = errors_of(part, baseline=True).rate if compared else None
            row["worse"] = bool(row["samples"] >= LEAST_IN_SLICE and row["low"] > overall)
            rows.append(row)
        groups.append({"name": name, "title": title, "rows": rows, "left_out": max(len(parts) - SHOWN_SLICES, 0)})
    return groups


def writer_range(predictions: pd.DataFrame) -> tuple[float, float] | None:
    """Lowest and highest CER of writers with `LEAST_IN_SLICE` images or more; None for fewer than two of them."""
    named = predictions[predictions["writer"] != ""].groupby("writer")
    found = [errors_of(part).rate for _, part in named if len(part) >= LEAST_IN_SLICE]
    return (min(found), max(found)) if len(found) > 1 else None


def _keys(predictions: pd.DataFrame) -> Iterable[tuple[str, str, pd.Series]]:
    for name, title in BY_NAME.items():
        yield name, title, predictions[name]
    size = predictions["width"] / predictions["height"].clip(lower=1)
    numbers = {
        **{name: predictions[name] for name in ("height", "sharpness", "ink_share")},
        "contrast": predictions["paper_level"] - predictions["ink_level"],
        "columns_per_character": size / predictions["length"].clip(lower=1),
    }
    for name, title in BY_QUARTER.items():
        values = numbers[name].astype(float)
        edges = np.unique(np.quantile(values, [0, 0.25, 0.5, 0.75, 1])) if len(values) else np.array([])
        if len(edges) < 3:
            continue
        bands = pd.cut(values, edges, include_lowest=True, labels=False)
        names = [f"{_short(a)} to {_short(b)}" for a, b in itertools.pairwise(edges)]
        names = [f"{n} ({i})" if names.count(n) > 1 else n for i, n in enumerate(names, 1)]
        yield name, title, bands.map(dict(enumerate(names))).astype(pd.CategoricalDtype(names, ordered=True))


def _short(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


def calibration(predictions: pd.DataFrame) -> dict[str, Any]:
    """Whether confidence means something: how often texts with a given confidence are exactly right.

    Args:
        predictions: Table of predictions.

    Returns:
        `bins`, of equally many images and at least `LEAST_IN_BIN`: rows of `confidence`, `right` (means) and `samples`;
        `error`, the expected calibration error: the mean gap of the two over all images, None for fewer than
        `LEAST_CALIBRATED`; `gap`, mean confidence minus share of right texts: above 0 is over-confident; `gap_error`,
        its standard error.
    """
    ordered = predictions.sort_values("confidence", kind="stable")
    confidence, right = ordered["confidence"].to_numpy(float), (ordered["edits"] == 0).to_numpy(float)
    bins = max(min(MOST_BINS, len(ordered) // LEAST_IN_BIN), 1)
    parts = [part for part in np.array_split(np.arange(len(ordered)), bins) if len(part)]
    rows = [{"confidence": float(confidence[p].mean()), "right": float(right[p].mean()), "samples": len(p)}
            for p in parts]  # fmt: skip
    error = sum(abs(row["confidence"] - row["right"]) * row["samples"] for row in rows) / max(len(ordered), 1)
    differences = confidence - right
    gap = float(differences.mean()) if len(ordered) else 0.0
    return {"bins": rows, "error": float(error) if len(ordered) >= LEAST_CALIBRATED else None, "gap": gap,
            "gap_error": float(differences.std() / max(len(ordered), 1) ** 0.5)}  # fmt: skip


def review(predictions: pd.DataFrame) -> list[dict[str, float]]:
    """What remains when the least confident share of the images goes to a person.

    Args:
        predictions: Table of predictions.

    Returns:
        Rows of `share` (as asked), `threshold` (the lowest confidence that is still accepted), `sent` (share that is
        below it), `cer` and `exact` of the accepted. No row for a share of fewer than half an image, nor where so many
        images have the same confidence that no threshold sends another share than that of the row before.
    """
    ordered = np.sort(predictions["confidence"].to_numpy())
    rows: list[dict[str, float]] = []
    for share in REVIEWED:
        place = round(share * len(ordered))
        if place == len(ordered):
            continue
        accepted = predictions[predictions["confidence"] >= ordered[place]]
        sent = 1 - len(accepted) / len(ordered)
        if not share or sent > rows[-1]["sent"]:
            errors = errors_of(accepted)
            rows.append({"share": share, "sent": sent, "threshold": float(ordered[place]), "cer": errors.rate,
                         "exact": errors.exact})  # fmt: skip
    return rows


def coverage(
    predictions: pd.DataFrame, alphabet: Sequence[str], in_training: Counter[str], at_start: Sequence[str]
) -> dict[str, Any]:
    """Which characters the model can write, and which of them were learnt and tested.

    Args:
        predictions: Texts and labels of the evaluation split.
        alphabet: Characters of the model.
        in_training: How often the training labels have each character.
        at_start: Characters of the model that training started from.

    Returns:
        `size` of the alphabet; `unknown`, rows of `character`, `occurrences` and `images`: in the labels of the
        evaluation split, but not in the alphabet, so always read wrong; `rare`, `{character: times in training}` below
        `RARE`, but for those that the start knew; `untested`, characters of the alphabet that no label of the
        evaluation split has; `kept` from the start, which no training label has; `dropped` of the start.
    """
    known = set(alphabet)
    occurrences: Counter[str] = Counter()
    in_images: Counter[str] = Counter()
    for text in predictions["text"]:
        occurrences.update(text)
        in_images.update(set(text))
    unknown = [{"character": c, "occurrences": n, "images": in_images[c]}
               for c, n in occurrences.most_common() if c not in known]  # fmt: skip
    before = set(at_start)
    rare = {c: in_training[c] for c in alphabet if in_training[c] < RARE and c not in before}
    return {"size": len(known), "unknown": unknown, "rare": dict(sorted(rare.items(), key=lambda item: item[1])),
            "untested": [c for c in alphabet if c not in occurrences],
            "kept": [c for c in alphabet if c in before and not in_training[c]],
            "dropped": [c for c in at_start if c not in known]}  # fmt: skip


def suspect_labels(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows whose label is probably wrong: the model is sure of a text that is wholly different from the label.

    Returns:
        Those rows, surest first, with the column `label_elsewhere`: the prediction is the label of another image,
        as after rows were swapped or shifted.
    """
    sure = predictions[(predictions["confidence"] >= SURE) & (predictions["prediction"].str.len() >= 3)]
    distance = sure["edits"] / np.maximum(sure["length"], sure["prediction"].str.len())
    found = sure[distance >= WHOLLY_DIFFERENT].sort_values("confidence", ascending=False, kind="stable")
    labels = set(predictions["text"])
    return found.assign(label_elsewhere=[prediction in labels for prediction in found["prediction"]])


def choose_cases(predictions: pd.DataFrame) -> dict[str, Any]:
    """Which images to look at.

    Returns:
        Row labels by group: `worst` (most edits per character), `typical` (drawn evenly from the other wrong ones,
        always the same), `suspect` (labels that are probably wrong, see `suspect_labels`). No image is in two groups.
    """
    suspects = list(suspect_labels(predictions).index[:SUSPECT])
    wrong = predictions[(predictions["edits"] > 0) & ~predictions.index.isin(suspects)]
    rate = (wrong["edits"] / wrong["length"].clip(lower=1)).clip(upper=1)
    order = wrong.assign(rate=rate).sort_values(["rate", "length"], ascending=False, kind="stable")
    rest = order.iloc[WORST:]
    drawn = rest.sample(min(TYPICAL, len(rest)), random_state=0) if len(rest) else rest
    return {"worst": list(order.index[:WORST]), "typical": list(drawn.index), "suspect": suspects}


def as_csv(predictions: pd.DataFrame) -> str:
    """A table of predictions as CSV; `read_csv` is the way back."""
    # Texts in quotation marks: a writer's name may hold a line break of old Macs, which would end the row.
    return predictions[list(COLUMNS)].to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def read_csv(path: str) -> pd.DataFrame:
    """Reads a table of predictions; texts stay as they are, also "NA" and "007"."""
    types: dict[str, Any] = {name: str for name in TEXT_COLUMNS}
    return pd.read_csv(path, dtype=types, keep_default_na=False, encoding="utf-8")
