"""What to try when the gate does not bless a model, from what the report knows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from components.common.metrics import samples_for
from components.common.words import counted, visible
from components.evaluator.verdict import MAX_CER, Verdict
from components.trainer.schedule import epochs_for
from components.trainer.settings import TrainConfig

MOST = 3
# Of all images; below, other causes weigh more.
_MANY_MISFITS = 0.02
_COLLAPSED = 0.8
_LARGEST_BOUND = 0.5  # a model that has every second character wrong serves nobody
_FEW_TRAINING_IMAGES = 2000
_FEW_EPOCHS = 5


def next_steps(contents: Mapping[str, Any]) -> list[str]:
    """Suggestions for a model that is not blessed.

    Args:
        contents: What `contents.build` made.

    Returns:
        Sentences, the most promising first, `MOST` at most; none for a blessed model.
    """
    if contents["verdict"]["blessed"]:
        return []
    found = list(_suggestions(contents))[:MOST]
    return found or ["Look at the worst images in the report, under 'Where it fails'."]


def _suggestions(contents: Mapping[str, Any]) -> Iterator[str]:
    kinds = {finding["kind"]: finding for finding in contents["findings"]}
    train, history = contents["config"]["train"], contents["training"]["history"]
    epochs = history[-1]["epoch"] if history else 0  # the first entry may be epoch 0, the base of a warm start
    yield from _misfits(contents)
    if "suspicious_labels" in kinds and kinds["suspicious_labels"]["severity"] == "problem":
        yield "Correct the suspect labels: the report shows those of the evaluation split, `htr check` all of them."
    learnt = contents["data"]["splits"].get("train", {"samples": 0, "by_model": 0})
    labelled = learnt["samples"] - learnt["by_model"]
    usual = epochs_for(TrainConfig.model_validate({**train, "epochs": None}), learnt["samples"])
    more = max(3 * train["epochs"], usual)  # no fewer than a training from this start gets where nobody sets a number
    # All that was asked for, which was next to nothing: more tells more than another learning rate.
    few_asked = epochs == train["epochs"] < min(usual, _FEW_EPOCHS)
    samples = contents["verdict"]["metrics"]["samples"]
    collapsed = contents["empty"] >= _COLLAPSED * samples > 0
    if collapsed and train["warm_start"]:
        yield (
            f"The model collapsed: {contents['empty']} of {samples:.0f} images give an empty text. The training has "
            f"damaged the model that it started from: lower train.learning_rate, for example to "
            f"{train['learning_rate'] / 10:g}."
        )
    elif collapsed:
        yield (
            f"The model collapsed: {contents['empty']} of {samples:.0f} images give an empty text, as at the "
            f"beginning of every training. Train for longer (train.epochs={more}), with more images "
            "or from a model of similar handwriting (train.warm_start=DIR)."
        )
    elif "base_kept" in kinds and not few_asked:
        yield (
            "No epoch was better than the model that the training started from: lower train.learning_rate, e.g. to "
            f"{train['learning_rate'] / 10:g}, or label more images of this kind."
        )
    elif "still_learning" in kinds:
        yield (
            f"Train for longer: the validation CER was still falling after {counted(epochs, 'epoch')}. For example "
            f"train.epochs={more}."
        )
    elif 0 < epochs < _FEW_EPOCHS:
        # The verdict advises a lower rate, too, where no epoch was better than the start.
        first = ", before you lower train.learning_rate" if "base_kept" in kinds else ""
        yield f"Train for longer than {counted(epochs, 'epoch')}{first}. For example train.epochs={more}."
    yield from _about_comparison(contents, made_worse=not collapsed and "base_kept" not in kinds)
    yield from _about_bounds(contents, collapsed)
    if labelled < _FEW_TRAINING_IMAGES and train["warm_start"]:
        yield (
            f"Label more training images than {labelled}, best by other writers. Images that nobody has labelled help, "
            "too, once a version is pushed that transcribes them (gate.max_cer bounds its CER): htr label."
        )
    elif labelled < _FEW_TRAINING_IMAGES:
        yield (
            f"Label more images, or start from a model of similar handwriting (train.warm_start=DIR): {labelled} "
            "training images are few for a model that starts from nothing."
        )


def _misfits(contents: Mapping[str, Any]) -> Iterator[str]:
    """Labels with more characters than the image has frames."""
    data, transform = contents["data"], contents["model"]["transform"]
    too_long = sum(group["count"] for group in data["rejected"] if group["reason"] == "label_too_long")
    misfits = too_long + data["unalignable"]
    if misfits > _MANY_MISFITS * data["rows"]:
        what = (
            "they look like lines of text: transform.preset=line"
            if transform["preset"] == "word"
            else f"give them more, for example transform.width={2 * transform['width']}"
        )
        yield f"{misfits} of {data['rows']} labels were left out, too long for the frames of their images; {what}."


def _about_comparison(contents: Mapping[str, Any], made_worse: bool) -> Iterator[str]:
    verdict, model, baseline = contents["verdict"], contents["model"], contents["baseline_model"]
    if not baseline or not any(failure["kind"] == "change" for failure in verdict["failures"]):
        return
    differs = [
        name
        for name, changed in (
            ("alphabet", set(model["alphabet"]) != set(baseline["alphabet"])),
            ("preset", model["transform"]["preset"] != baseline["transform"]["preset"]),
        )
        if changed
    ]
    if differs:
        differ = "differs" if len(differs) == 1 else "differ"
        yield (
            f"The {' and the '.join(differs)} of {contents['against']} {differ} from this model's. If the comparison "
            "makes no sense for that reason: gate.baseline=none with gate.baseline_reason='...', kept in the report."
        )
    found = verdict["compared_with"]
    if found and found["kind"] == "in_service" and not contents["config"]["train"]["warm_start"] and not differs:
        yield f"Start from the model in service: train.warm_start={found['path']}."
    elif found and found["kind"] in ("warm_start", "base_model") and made_worse:
        rate = contents["config"]["train"]["learning_rate"] / 10
        yield f"The training has made the model that it started from worse: lower train.learning_rate, e.g. {rate:g}."


def _about_bounds(contents: Mapping[str, Any], collapsed: bool) -> Iterator[str]:
    verdict = contents["verdict"]
    metrics, bound = verdict["metrics"], contents["config"]["gate"]["max_cer"]
    if bound and metrics["cer"] <= bound < metrics["cer_high"]:
        least = samples_for(bound, contents["level"])
        yield (
            f"Evaluate on more images: the CER itself is within gate.max_cer, but the interval is wide with "
            f"{counted(int(metrics['samples']), 'image')} (more labels; or data.eval_fraction in a training "
            "that starts from none of your models, which have learnt from some of these images)."
            + (f" {bound:g} takes {least} at least, all of them right." if metrics["samples"] < least else "")
        )
    compared, failures = contents["comparison"], Verdict.from_dict(verdict).failures
    too_high = [failure.misses(MAX_CER) for failure in failures] == [True]
    enough = math.ceil(20 * metrics["cer_high"]) / 20
    if too_high and not collapsed and compared and compared["differs"] < 0 and enough <= _LARGEST_BOUND:
        yield (
            f"Its CER is lower than that of {contents['against']} ({metrics['cer']:.3f}, "
            f"{compared['baseline']['rate']:.3f}). If that is enough, raise the bound: gate.max_cer={enough:g}."
        )
    missed = [failure.slice for failure in failures if failure.kind == "bound" and failure.slice != "all"]
    slices = list(dict.fromkeys(missed))  # one may miss two bounds
    if slices:
        yield f"Add training images like those of {', '.join(slices[:3])}, which miss their bounds."
    unknown = contents["coverage"]["unknown"]
    if unknown:
        shown = " ".join(visible(row["character"]) for row in unknown[:8])
        yield f"Add training images with the characters {shown}, which the model cannot write."
