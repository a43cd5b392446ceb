"""Looks at a dataset before anything is trained: duplicates, leaks, labels that cannot be right, characters, sizes.

Rows are accepted and rejected by the same function as in the pipeline. No TensorFlow here.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.common.words import MOST_CHARACTERS, counted, some, visible
from components.example_gen.images import mend_notes, resolve_image
from components.example_gen.plan import Plan
from components.example_gen.rejects import FITS_AS_LINE, Reject, Rejected, advice_for, is_unreadable_image
from components.example_gen.splits import SPLITS
from components.example_gen.table import Table
from components.report import figures
from components.report.html import environment
from components.report.settings import RunSettings
from components.tools.data_check.findings import find
from components.tools.data_check.look import Seen
from components.tools.data_check.suspects import misfits, odd_labels, same_images
from components.trainer import estimate, warm_start
from components.trainer.schedule import schedule_for, trial_epochs
from components.transform import geometry
from components.transform.settings import TransformConfig
from htr_client.cores import usable_cores

FAINT = 24
SHOWN, LISTED = 12, 2000  # of each kind, with their images and in all


def check(
    results: Iterable[Seen | Reject], tables: Sequence[Table], notes: Sequence[str], plan: Plan, config: RunSettings
) -> dict[str, Any]:
    """Everything that can be said about a dataset.

    Args:
        results: Results of `look`, in the order of the rows.
        tables: Label files.
        notes: Notes of `find_tables`.
        plan: Plan for all rows, of `make_plan`.
        config: Settings of data and transform.

    Returns:
        A tree for `as_text` and `as_page`: `findings`, `splits`, `rejected`, `same`, `suspect`, `characters`,
        `labels`, `frames`, `training` and counts.
    """
    seen, rejects = [], []
    for result in results:
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            seen.append(result)
    mended = Counter(s.sample.mend for s in seen if s.sample.mend)
    by_split = {split: [s for s in seen if s.sample.split == split] for split in SPLITS}
    contents: dict[str, Any] = {
        "tables": [table.path for table in tables],
        "notes": [*notes, *plan.notes, *mend_notes(mended)],
        "problems": list(plan.problems),
        "rows": len(seen) + len(rejects),
        "rejected_rows": len(rejects),
        "rejected": _rejected(rejects, tables),
        "splits": {split: _split(rows) for split, rows in by_split.items()},
        "same": _same(seen),
        "suspect": _suspect(seen),
        "characters": _characters(by_split),
        "labels": _labels(seen),
        "frames": _frames(seen, config.transform),
        "writers": _writers(by_split) | {"kept_together": plan.splits.by_writer},
        "training": _training(by_split, config),
    }
    contents["findings"] = [vars(finding) for finding in find(contents, config).sorted()]
    return contents


def _split(rows: Sequence[Seen]) -> dict[str, Any]:
    lengths = [len(s.sample.text) for s in rows]
    return {
        "samples": len(rows), "by_model": sum(s.sample.by_model for s in rows),
        "writers": len({s.sample.writer for s in rows} - {""}),
        "labels": len({s.sample.text for s in rows}), "characters": sum(lengths),
        "median_length": statistics.median(lengths) if rows else None, "longest": max(lengths, default=None),
        "median_width": statistics.median([s.sample.original[0] for s in rows]) if rows else None,
        "median_height": statistics.median([s.sample.original[1] for s in rows]) if rows else None,
    }  # fmt: skip


def _rejected(rejects: Sequence[Reject], tables: Sequence[Table]) -> list[dict[str, Any]]:
    by_name = {table.name: table for table in tables}
    groups = []
    for reason, count in Counter(reject.reason for reject in rejects).most_common():
        examples, of_reason = [], [r for r in rejects if r.reason == reason]
        for reject in of_reason[:3]:
            path = ""
            if not is_unreadable_image(reason):  # those cannot be shown
                with contextlib.suppress(Rejected):
                    path = resolve_image(reject.image.strip(), by_name[reject.table])
            examples.append({"row": reject.line, "table": reject.table, "detail": reject.detail, "path": path})
        advice = advice_for(reason, count, sum(FITS_AS_LINE in reject.detail for reject in of_reason))
        said = any(advice in str(example["detail"]) for example in examples)
        groups.append({"reason": reason, "count": count, "examples": examples, "advice": "" if said else advice})
    return groups


def _same(seen: Sequence[Seen]) -> dict[str, list[dict[str, Any]]]:
    """Pairs of the same image: `leaks` across splits, `contradictions` with other labels, `repeats`."""
    groups: dict[str, list[dict[str, Any]]] = {"leaks": [], "contradictions": [], "repeats": []}
    for i, j in same_images(seen):
        a, b = seen[i], seen[j]
        pair = {"first": _row(a), "second": _row(b), "exact": a.pixels == b.pixels}
        if a.sample.split != b.sample.split:
            groups["leaks"].append(pair)
        if a.sample.text != b.sample.text:
            groups["contradictions"].append(pair)
        elif a.sample.split == b.sample.split:
            groups["repeats"].append(pair)
    return groups


def _row(row: Seen) -> dict[str, Any]:
    return {"place": row.place, "id": row.sample.id, "text": row.sample.text, "split": row.sample.split,
            "writer": row.sample.writer, "path": row.path}  # fmt: skip


def _suspect(seen: Sequence[Seen]) -> dict[str, Any]:
    """Labels and images that look wrong, with the reason in words."""
    odd = [{**_row(s), "why": why} for s in seen for why in odd_labels(s.sample.text)]
    wrong_length = [
        {
            **_row(seen[i]), "factor": round(factor, 2),
            "why": f"the ink is {factor:.1f} times as wide as usual for {len(seen[i].sample.text)} characters"
            if factor > 1
            else f"the ink is {1 / factor:.1f} times narrower than usual for {len(seen[i].sample.text)} characters",
        }
        for i, factor in misfits(seen)
    ]  # fmt: skip
    empty = [{**_row(s), "why": "the image shows nothing, or next to nothing"} for s in seen if s.contrast < FAINT]
    dark = [{**_row(s), "why": "light writing on a dark ground"} for s in seen
            if s.sample.statistics["ink_share"] > 0.5 and s.contrast >= FAINT]  # fmt: skip
    return {"odd": odd, "misfits": wrong_length, "empty": empty, "dark": dark}


def _characters(by_split: Mapping[str, Sequence[Seen]]) -> list[dict[str, Any]]:
    """How often each character occurs by split, most frequent first."""
    counts = {split: Counter("".join(s.sample.text for s in rows)) for split, rows in by_split.items()}
    total: Counter[str] = sum(counts.values(), Counter())
    return [{"character": c, "total": n, **{split: counts[split][c] for split in counts}}
            for c, n in total.most_common()]  # fmt: skip


def _labels(seen: Sequence[Seen]) -> dict[str, Any]:
    counts = Counter(s.sample.text for s in seen)
    return {"distinct": len(counts), "once": sum(n == 1 for n in counts.values()),
            "frequent": [{"text": text, "count": n} for text, n in counts.most_common(10)]}  # fmt: skip


def _frames(seen: Sequence[Seen], transform: TransformConfig) -> dict[str, Any]:
    """How labels fit into the frames, and how many images are so long that they are made lower to fit in."""
    assert transform.height and transform.width
    limit = transform.width / transform.height
    shrunk = [s.sample.width / s.sample.height / limit for s in seen if s.sample.width / s.sample.height > limit]
    sizes = [(s.sample.width, s.sample.height, s.sample.text) for s in seen]
    return {
        "crowding": geometry.crowding(sizes, transform), "height": transform.height, "width": transform.width,
        "preset": transform.preset, "shrunk": len(shrunk) if transform.resize == "pad" else 0,
        "shrunk_by": statistics.median(shrunk) if shrunk else 1.0,
    }  # fmt: skip


def _training(by_split: Mapping[str, Sequence[Seen]], config: RunSettings) -> dict[str, Any]:
    """How much a training and the search before it have to do, and how long both take on this machine's CPU."""
    transform, images = config.transform, by_split["train"]
    assert transform.height and transform.width
    # The preset `word` fills each row of the tensor up; `line` fills up to the widest image of a batch.
    widths = [geometry.resized_width(s.sample.width, s.sample.height, transform) for s in images]
    width = transform.width if transform.preset == "word" else statistics.mean(widths or [0])
    train, _, start = warm_start.settled(config.train, transform, config.model)
    steps = estimate.expected_steps(train, len(images))
    schedule, tune = schedule_for(train, len(images)), config.tune
    trial = train.model_copy(update={"epochs": trial_epochs(tune, schedule)})
    sizes = (len(images), len(by_split["validation"]), transform.height * width)
    seconds = estimate.expected_seconds(train, *sizes) + tune.trials * estimate.expected_seconds(trial, *sizes)
    return {
        "images": len(images), "steps": steps, "seconds": seconds, "time": estimate.in_words(seconds),
        "epochs": schedule.epochs, "trials": tune.trials, "trial_epochs": trial.epochs, "start": start.name,
        "warm": train.is_warm, "cores": usable_cores(),
        "start_alphabet": "".join(warm_start.alphabet_of(start.version)) if start.version else "",
    }  # fmt: skip


def _writers(by_split: Mapping[str, Sequence[Seen]]) -> dict[str, Any]:
    """Writers by the splits that they are in, where that is more than one."""
    splits: dict[str, dict[str, int]] = defaultdict(dict)
    for split, rows in by_split.items():
        for writer, count in Counter(s.sample.writer for s in rows if s.sample.writer).items():
            splits[writer][split] = count
    shared = {writer: found for writer, found in sorted(splits.items()) if len(found) > 1}
    return {"known": len(splits), "shared": shared}


def as_text(contents: Mapping[str, Any], shown: bool) -> str:
    """The check for a terminal.

    Args:
        contents: Result of `check`.
        shown: Whether a page with the images is written besides.
    """
    lines = [f"Note: {note}" for note in contents["notes"]]
    lines.append(f"{counted(contents['rows'], 'row')} in {', '.join(contents['tables'])}")
    for split, found in contents["splits"].items():
        writers = f", {counted(found['writers'], 'writer')}" if found["writers"] else ""
        lines.append(f"  {found['samples']:7d} accepted for {split}{writers}")
    for group in contents["rejected"]:
        row = group["examples"][0]
        where = f"row {row['row']} of {row['table']}"
        lines.append(f"  {group['count']:7d} rejected: {group['reason']}, e.g. {where}: {row['detail']}")
        if group["advice"]:
            lines.append(f"          {group['advice']}")
    characters = sorted((visible(c["character"]) for c in contents["characters"]), key=lambda c: (len(c), c))
    shown_alone = [f" {character}" if len(character) > 1 else character for character in characters]
    lines.append(f"{counted(len(characters), 'character')}: {some(shown_alone, MOST_CHARACTERS, '')}")
    labels = contents["labels"]
    several = [row for row in labels["frequent"][:5] if row["count"] > 1]
    frequent = ", ".join(f"{_shown(row['text'])} ({row['count']})" for row in several)
    lines.append(counted(labels["distinct"], "different label") + (f", most often {frequent}" if frequent else ""))
    lines.append(training_in_words(contents["training"]))
    for finding in contents["findings"]:
        lines += ["", f"{finding['severity'].capitalize()}: {finding['text']}"]
        if finding["advice"]:
            lines.append(f"  Suggestion: {finding['advice']}")
    if not contents["findings"]:
        lines += ["", "Nothing suspicious was found."]
    if not shown and (any(contents["same"].values()) or any(contents["suspect"].values())):
        lines += ["", "With --html FILE the check writes a page that shows the images."]
    return "\n".join(lines)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else visible(c) for c in text)


def training_in_words(training: Mapping[str, Any]) -> str:
    """How long the training takes, with the search before it."""
    if not training["images"]:
        return "Training: there is no image to train on"
    search = ""
    if training["trials"]:
        trials, epochs = counted(training["trials"], "trial"), counted(training["trial_epochs"], "epoch")
        search = f"and a search of {trials} of {epochs} each before it, "
    return (
        f"Training: {training['images']:,} images in {training['epochs']} epochs, {training['steps']:,} steps, {search}"
        f"take {training['time']} on {counted(training['cores'], 'core')} without a GPU (an estimate, right to a "
        f"factor of two), starting from {training['start']}"
    )


def as_page(contents: Mapping[str, Any]) -> str:
    """The check as one self-contained HTML page, with the images that it is about."""
    made = environment(os.path.dirname(__file__))
    made.filters["thumbnail"] = lambda path: figures.thumbnail_of(path, 420, 80)
    named = ", ".join(sorted({os.path.basename(os.path.dirname(path)) for path in contents["tables"]}))
    return made.get_template("check.html.j2").render(
        c=contents, named=named, shown=SHOWN, listed=LISTED, training=training_in_words(contents["training"])
    )
