"""What a person should know about a run before its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.common.words import some, visible
from components.report import analysis
from components.report.findings import Finding, Findings, add_texts_by_models
from components.report.material import Material, Split

FEW_IMAGES = 300


def findings(m: Material, contents: Mapping[str, Any]) -> list[Finding]:
    """What a person should know first: problems before notes.

    Args:
        m: What the report is made of.
        contents: Numbers that `build` has computed from it.
    """
    result = Findings()
    for problem in m.counts.get("problems", []):
        result.problem("data", problem)
    _check_splits(m, contents, result)
    add_texts_by_models(contents["data"]["splits"], result)
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


def _check_splits(m: Material, contents: Mapping[str, Any], result: Findings) -> None:
    evaluated, learnt = m.splits.get("eval", Split()), [m.splits[s] for s in ("train", "validation") if s in m.splits]
    shared = m.shared_writers
    images = shared.total()
    if shared and not m.counts.get("split_by_writer", True):  # nothing is wrong with the data: the writers are few
        result.note(
            "known_writers",
            f"Images were split one by one, not by writer: {images} of {evaluated.samples} evaluation images are by "
            f"writers of training images ({some(sorted(shared))}). The error on unseen writers is higher than "
            "measured.",
            "Add images by other writers.",
        )
    elif shared:
        result.problem(
            "leaked_writers",
            f"Writers of the evaluation split who also wrote training images: {some(sorted(shared))} ({images} of "
            f"{evaluated.samples} evaluation images). The error on unseen writers is higher than measured.",
            "Split by writer: drop the split column or file names that give the splits, and name the writer column.",
        )
    seen = [evaluated.images.keys() & split.images.keys() for split in learnt]
    leaked = sorted(set().union(*seen))
    if leaked:
        names = some([evaluated.images[image][1] for image in leaked], 3)
        result.problem(
            "leaked_images",
            f"Evaluation images that are also among the training images: {len(leaked)} ({names}). "
            f"The figures are too good.",
            "`htr check` lists them; keep each image in one split.",
        )
    count = len(evaluated.images)
    if before := m.seen_before.get("start"):
        result.problem(
            "leaked_start",
            f"The model that the training started from has learnt from {before} of the {count} evaluation images. The "
            "figures are too good.",
            "Leave fractions, salt, writers and folders as they were when it was trained, or start from a model that "
            "has not seen these images (train.warm_start).",
        )
    elif before := m.seen_before.get("baseline"):
        result.note(
            "leaked_baseline",
            f"The model is compared with {contents['against']}, which has learnt from {before} of the {count} "
            "evaluation images. Its figures are too good, so a better model may be refused.",
            "gate.baseline=none with gate.baseline_reason leaves the comparison out of one run.",
        )
    known = {writer for split in m.splits.values() for writer in split.writers if writer}
    if not known:
        result.note("no_writers", "No writers are named, so one may be in training and evaluation: the error on "
                    "unseen writers is probably higher than measured.", "Add a writer column. Without one, the names "
                    "of folder and images draw the splits: keep them.")  # fmt: skip


def _check_labels(m: Material, result: Findings) -> None:
    suspect = analysis.suspect_labels(m.predictions)
    sure = int((m.predictions["confidence"] >= analysis.SURE).sum())
    if len(suspect) < 3 or len(suspect) < 0.01 * sure:
        return
    elsewhere = int(suspect["label_elsewhere"].sum())
    swapped = f", and {elsewhere} times that is exactly the label of another image" if elsewhere else ""
    (result.problem if len(suspect) > 0.03 * sure else result.note)(
        "suspicious_labels",
        f"About {len(suspect) / sure:.0%} of the labels look wrong: of {sure} images that were transcribed with a "
        f"confidence of {analysis.SURE:g} or more, {len(suspect)} say something wholly different from their "
        f"label{swapped}.",
        "Look at the suspect labels below. " + ("Were rows swapped or shifted?" if elsewhere else ""),
    )


def _check_characters(coverage: Mapping[str, Any], result: Findings) -> None:
    if coverage["unknown"]:
        shown = some([f"{visible(u['character'])} ({u['occurrences']})" for u in coverage["unknown"]], 12)
        result.problem(
            "new_characters",
            f"Characters of the evaluation labels that are not in the model's alphabet, so that it can never write "
            f"them: {shown}.",
            "Add training images with these characters, or keep such labels out of the evaluation split.",
        )
    if coverage["rare"]:
        shown = some([f"{visible(c)} ({n})" for c, n in coverage["rare"].items()], 16)
        result.note("rare_characters", f"Characters that occur fewer than {analysis.RARE} times in the training labels "
                    f"and are hardly learnt: {shown}.")  # fmt: skip


def _check_figures(m: Material, contents: Mapping[str, Any], result: Findings) -> None:
    measured, metrics = contents["character"], m.verdict.metrics
    if measured["rate"] != metrics["cer"] and not math.isnan(metrics["cer"]):
        result.problem(
            "disagreement",
            f"The texts that Evaluator has kept give a CER of {measured['rate']:.6f}, its verdict says "
            f"{metrics['cer']:.6f}: they are not those of the same images and labels.",
            "The verdict rests on the Evaluator. Please report this with the two files of the model.",
        )
    if measured["samples"] < FEW_IMAGES:
        result.note("few_images", f"The figures rest on {measured['samples']} images only; see how wide the "
                    "intervals are.", "Label more. A larger data.eval_fraction takes images that models so far have "
                    "learnt from: then start from none of them.")  # fmt: skip
    for group in contents["slices"]:
        if group["name"] != "length_band":
            bad = [r for r in group["rows"] if r["worse"] and r["rate"] > 1.5 * measured["rate"]]
            for row in bad[:2]:
                result.note(
                    "weak_writer" if group["name"] == "writer" else "weak_slice",
                    f"{group['title'].capitalize()} {row['value']}: CER {row['rate']:.1%} against "
                    f"{measured['rate']:.1%} overall, {row['share']:.0%} of all errors on "
                    f"{row['samples'] / measured['samples']:.0%} of the images.",
                )
    gap = contents["calibration"]["gap"]
    if abs(gap) > max(0.05, 2 * contents["calibration"]["gap_error"]):
        word = "too high" if gap > 0 else "too low"
        result.note("calibration", f"Confidence is {abs(gap):.0%} {word} on average.",
                    "Choose a threshold for review from the table below, not from the number itself.")  # fmt: skip


def _check_training(m: Material, result: Findings) -> None:
    facts = m.settings.get("training", {})
    if facts.get("collapse"):
        result.problem("collapse", f"Training collapsed: {facts['collapse']}.",
                       "Try more epochs (train.epochs), a lower train.learning_rate, or more labels.")  # fmt: skip
    if facts.get("base_validation_cer") is not None and facts["best_epoch"] == 0:
        result.note("base_kept", "No epoch transcribed the validation images better than the model that training "
                    "started from: its weights were kept.",
                    "Try a lower train.learning_rate, or more labels.")  # fmt: skip
    if facts.get("still_falling"):
        result.note("still_learning", "The validation CER was still falling when training ended.",
                    "More epochs will probably help: train.epochs.")  # fmt: skip
