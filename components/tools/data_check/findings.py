"""What is wrong with a dataset or worth a look, in words."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from components.common.metrics import samples_for, unseen_share
from components.common.words import counted, some, visible
from components.example_gen.rejects import NO_ROWS, faults
from components.report.findings import Findings, add_texts_by_models
from components.report.settings import RunSettings
from components.trainer import estimate
from components.transform import geometry

RARE = 10
# Labels. In docs/accuracy.md some four thousand reach a CER of 0.05 to 0.12 on unseen writers; from 300 rows a network
# learns to write nothing at all.
TOO_FEW, LITTLE = 300, 1000
LONG_HOURS, LIMIT = 4, 20_000
# Labels. Rows that are shifted are many; of few rows, one bad label is more than one in a hundred.
SHIFTED = 5


def find(contents: Mapping[str, Any], config: RunSettings) -> Findings:
    """What the check of a dataset has found.

    Args:
        contents: Tree of `check.check`, without its `findings`.
        config: Settings of data, transform and gate.
    """
    result, rejected, rows = Findings(), contents["rejected_rows"], contents["rows"]
    accepted = rows - rejected
    if not rows:
        result.problem("no_rows", NO_ROWS)
        return result
    for problem in contents["problems"]:
        result.problem("plan", problem)
    _about_splits(contents, _cause(contents["rejected"]), result)
    _about_the_gate(contents["splits"]["eval"]["samples"], config, result)
    add_texts_by_models(contents["splits"], result)
    _about_labels(contents, accepted, result)
    _about_characters(contents["characters"], contents["training"]["start_alphabet"], config, result)
    _about_sizes(contents, accepted, result)
    counting = [group for group in contents["rejected"] if faults({group["reason"]: group["count"]})]
    at_fault = sum(group["count"] for group in counting)
    if at_fault > config.data.max_rejected * rows:
        result.problem("rejected", f"{at_fault} of {rows} rows would be rejected; data.max_rejected allows "
                       f"{config.data.max_rejected:.1%}.", _cause(counting) or "The reasons are listed; one cause "
                       "often explains most of them.")  # fmt: skip
    return result


def _cause(groups: Sequence[Mapping[str, Any]]) -> str:
    """What helps against the most frequent reason: an empty split and too many rejects often have one cause."""
    return next((f"Most are {group['reason']}: {group['advice']}." for group in groups[:1] if group["advice"]), "")


def _about_splits(contents: Mapping[str, Any], cause: str, result: Findings) -> None:
    shared = contents["writers"]["shared"]
    evaluated = {writer: found["eval"] for writer, found in shared.items() if "eval" in found}
    together = contents["writers"]["kept_together"]  # else a note says so
    if evaluated and together:
        result.problem(
            "leaked_writers",
            f"Writers of the evaluation split who also wrote images of other splits: {some(list(evaluated))} ("
            f"{sum(evaluated.values())} of {contents['splits']['eval']['samples']} evaluation images). The error on "
            f"unseen writers would be underestimated.",
            "The split column or the file names give these splits: drop them, and writers stay together "
            "(data.split_column=none leaves the column out of account).",
        )
    elif shared and together:
        result.note("shared_writers", f"Writers who are both in training and validation: {some(list(shared))}. The "
                    "CER that training monitors is lower than on unseen writers.")  # fmt: skip
    if not contents["writers"]["known"]:
        result.note("no_writers", "No writers are named: images are split one by one, and the error on writers that "
                    "the model has never seen is underestimated.", "Add a writer column where known. Without one, "
                    "the names of folder and images draw the splits: keep them.")  # fmt: skip
    leaks = contents["same"]["leaks"]
    if leaks:
        pair = leaks[0]
        result.problem(
            "leaked_images",
            f"Images in more than one split: {len(leaks)}, for example {pair['first']['id']} "
            f"({pair['first']['split']}) and {pair['second']['id']} ({pair['second']['split']}): the figures would be "
            "too good.",
            "Remove one of each pair, or give both rows the same writer or split.",
        )
    empty = [split for split, found in contents["splits"].items() if not found["samples"]]
    if empty:
        result.problem("empty_split", f"No image falls into {' and '.join(empty)}: the run would stop.",
                       f"Add data, or correct what is rejected. {cause}".strip())  # fmt: skip


def _about_the_gate(images: int, config: RunSettings, result: Findings) -> None:
    """Says it where the evaluation split is so small that no model can meet the bound."""
    bound = config.gate.max_cer
    least = samples_for(bound, config.gate.confidence_level) if bound else 0
    if 0 < images < least:
        # In steps of five hundredths, and less than the one at which a gate refuses nothing.
        step = math.ceil(20 * unseen_share(images, config.gate.confidence_level))
        looser = f", or --set gate.max_cer={step / 20:g}, the least that so many can show" if step < 20 else ""
        result.problem(
            "too_few_to_evaluate",
            f"{counted(images, 'evaluation image')} cannot show that a model meets gate.max_cer={bound:g}: that takes "
            f"{least} at least, all of them right.",
            f"Label more, or raise data.eval_fraction before the first run{looser}.",
        )


def _about_labels(contents: Mapping[str, Any], samples: int, result: Findings) -> None:
    same, suspect = contents["same"], contents["suspect"]
    if same["contradictions"]:
        pair = same["contradictions"][0]
        result.problem(
            "contradictions",
            f"Images with two labels: {len(same['contradictions'])}, for example {pair['first']['text']!r} in "
            f"{pair['first']['place']} and {pair['second']['text']!r} in {pair['second']['place']}.",
            "One of the two is wrong, or a wrong image is named.",
        )
    if same["repeats"]:
        result.note("repeats", f"Images twice in one split under the same label: {len(same['repeats'])}.",
                    "They count twice in training and in the figures.")  # fmt: skip
    count = len(suspect["misfits"])
    if count:
        share = count / max(samples, 1)
        shown = some([f"{row['text']!r} in row {row['place'].split()[1]}" for row in suspect["misfits"]], 3)
        if share > 0.01 and count >= SHIFTED:
            result.problem(
                "swapped_labels",
                f"{count} labels ({share:.1%}) are much too long or too short for the ink of their image ({shown}). "
                f"Labels that belong to other images look like that, and several times as many of them would fit by "
                f"chance; so do images with rules, stains or more words than the label.",
                "Were rows swapped or shifted against the images?",
            )
        else:
            result.note("misfits", f"Labels that are much too long or too short for the ink of their image: {count} "
                        f"({shown}).")  # fmt: skip
    for kind, text in (("odd", "Labels that look wrong by themselves"), ("empty", "Images with next to nothing on "
                       "them"), ("dark", "Images with light writing on a dark ground")):  # fmt: skip
        if suspect[kind]:
            row = suspect[kind][0]
            why = f" {row['why']}" if kind == "odd" else ""
            result.note(f"{kind}_{'labels' if kind == 'odd' else 'images'}", f"{text}: {len(suspect[kind])}, for "
                        f"example {row['place']}: {row['text']!r}{why}.")  # fmt: skip


def _about_characters(
    characters: Sequence[Mapping[str, Any]], known: str, config: RunSettings, result: Findings
) -> None:
    """Tells of characters that the model would not learn; `known` are those of the model that training starts from."""
    kept = known if config.train.keep_characters else ""
    new = [c for c in characters if not c["train"] and c["character"] not in kept]
    if new:
        shown = some([f"{visible(c['character'])} ({c['total']})" for c in new], 16)
        result.problem(
            "new_characters",
            f"Characters that occur outside the training split only, so that the model could never write them: "
            f"{shown}.",
            "Add training images with them, or set data.alphabet to reject such labels.",
        )
    if known and not _is_known(characters, known):
        both = sum(c["character"] in known for c in characters)
        result.note(
            "unknown_script",
            f"The model that training starts from knows {both} of the {len(characters)} characters of these labels, "
            "and few of their letters: training learns their script from nothing.",
            "Count with thousands of labels. For htr label, train a first model on some of them: this one writes other "
            "letters.",
        )
    rare = [c for c in characters if 0 < c["train"] < RARE and c["character"] not in known]
    if rare:
        shown = some([f"{visible(c['character'])} ({c['train']})" for c in rare], 16)
        result.note("rare_characters", f"Characters that occur fewer than {RARE} times in training and will hardly "
                    f"be learnt: {shown}.")  # fmt: skip


def _about_sizes(contents: Mapping[str, Any], samples: int, result: Findings) -> None:
    frames = contents["frames"]
    if frames["crowding"] > geometry.CROWDED and frames["preset"] == "word":
        result.note("crowded", f"One label in twenty needs {frames['crowding']:.0%} or more of its image's frames.",
                    "With more frames it is transcribed better: --set transform.preset=line")  # fmt: skip
    if frames["shrunk"] > 0.05 * samples and frames["shrunk_by"] > 1.25:
        result.note(
            "long_images",
            f"{frames['shrunk']} images are longer than {frames['width']} x {frames['height']} columns can hold and "
            f"are made lower, half of them by a factor of {frames['shrunk_by']:.1f} or more.",
            "A larger transform.width keeps their writing at full height"
            + (": --set transform.preset=line" if frames["preset"] == "word" else "."),
        )
    training = contents["training"]
    written = sum(split["by_model"] for split in contents["splits"].values())
    samples -= written
    if written and not samples:
        result.problem(
            "no_labels",
            "A model wrote all of these texts: what is trained on them learns no more than that model knew, and its "
            "error rate would say nothing.",
            "Give htr run the folder with the labels by people, too: --data LABELLED --data READ.",
        )
    elif training["warm"] and _is_known(contents["characters"], training["start_alphabet"]):
        _about_adapting(contents, samples, result)
    elif 0 < samples < TOO_FEW:
        result.problem(
            "too_little_data",
            f"{counted(samples, 'label')} are too few to train a model from nothing: it would recognise little.",
            "Label a thousand or more, or begin with a model trained on such writing (train.warm_start).",
        )
    elif 0 < samples < LITTLE:
        result.note(
            "little_data",
            f"{samples} labels are little to learn from: such a model may recognise these words of these writers, and "
            "few others.",
            "Thousands make a model for other words and writers, or train.warm_start begins with one that recognises "
            "more.",
        )
    if training["seconds"] > LONG_HOURS * 3600:
        result.note(
            "long_training",
            f"Training takes {training['time']} on {counted(training['cores'], 'core')} of this machine, if it has no "
            f"GPU: {training['images']:,} images in {training['epochs']} epochs.",
            f"--set data.limit={LIMIT} takes a part with the same writers and splits, for a first model in a fraction "
            "of the time; fewer train.epochs do for large data.",
        )


def _is_known(characters: Sequence[Mapping[str, Any]], known: str) -> bool:
    """Whether a model knows at least half of the letters of labels: else training learns their script from nothing.

    Args:
        characters: Characters of the labels, with how often each occurs.
        known: Those of the model.
    """
    letters = {c["character"]: c["total"] for c in characters if unicodedata.category(c["character"])[0] in "LM"}
    return 2 * sum(count for letter, count in letters.items() if letter in known) >= sum(letters.values())


def _about_adapting(contents: Mapping[str, Any], samples: int, result: Findings) -> None:
    """What few labels bring to the model that training starts from; nothing where the run stops before it trains."""
    if samples >= LITTLE or not all(split["samples"] for split in contents["splits"].values()):
        return
    many, unknown, least = "so many", "", estimate.FEWEST_ADAPTED
    if samples < least:
        many, unknown = f"{least} labels", "; fewer were not measured"
    before, after = estimate.adapted_cer(max(samples, least))
    result.note(
        "little_data",
        f"{counted(samples, 'label')} would be too few to train a model from nothing; they adapt "
        f"{contents['training']['start']} to these words and writers. Where it was measured, with words and writers "
        f"that the base model for lines had never seen, {many} brought its CER on other "
        f"writers from {before:.2f} to {after:.2f}{unknown}.",
        "More writers bring more than more images of the same ones; images that nobody has labelled help, too: "
        "htr label (docs/training.md).",
    )
