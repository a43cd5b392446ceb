"""Looks at a dataset before anything is trained: duplicates, leaks, labels that cannot be right, characters, sizes.

Rows are accepted and rejected by the same function as in the pipeline. No TensorFlow here.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from components import storage
from components.example_gen import dataset
from components.report import figures
from components.report.findings import Findings, some
from components.report.report import environment
from components.transform import geometry
from pipeline.config import Config, DataConfig, TransformConfig

RARE, FAINT = 10, 24
SHOWN = 12
NO_TEXT = {"none", "null", "nan", "n/a", "na", "todo", "tbd", "unknown", "illegible", "unreadable", "unclear", "blank",
           "empty", "missing"}  # fmt: skip
# Outlines: differences between neighbours of a small copy. Two pictures with so few different ones are the same.
_OUTLINE_SIZE, _OUTLINE_BANDS, _OUTLINE_DIFFERENT, _OUTLINE_LEAST = (33, 12), 16, 8, 24
_CROWDED_BUCKET = 50
_FITTED = 20_000


@dataclass(frozen=True)
class Seen:
    """An accepted row, and what its picture looks like.

    Attributes:
        sample: without the picture.
        table: name of the CSV file.
        line: its line.
        path: of the picture.
        pixels: digest of the decoded picture.
        outline: one bit a difference of neighbouring pixels of a small copy; 0 for an empty picture.
        ink_columns: from the first to the last column with ink.
        contrast: grey levels between paper and the darkest strokes.
    """

    sample: dataset.Sample
    table: str
    line: int
    path: str
    pixels: bytes
    outline: int
    ink_columns: int
    contrast: float

    @property
    def place(self) -> str:
        """Where the row stands."""
        return f"row {self.line} of {self.table}"


def look(
    row: dataset.Row, given: frozenset[str], data: DataConfig, transform: TransformConfig
) -> Seen | dataset.Reject:
    """Examines a row as the pipeline does, and looks at its picture; see `dataset.examine_rows` for the arguments."""
    (examined,) = dataset.examine_with_pixels([row], given, data, transform)
    if isinstance(examined, dataset.Reject):
        return examined
    sample, grey = examined
    path = dataset.resolve_image(row.fields[row.table.image].strip(), row.table)
    pixels = hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).digest()[:16]
    darkest, paper = np.percentile(grey, [0.2, 95])
    ink = np.clip((paper - grey) / max(paper - darkest, 1), 0, 1)
    # Without the outermost ink, which is often a rule or a speck at the edge.
    mass = np.cumsum(np.where(ink < 0.4, 0, ink).sum(axis=0))
    first, last = np.searchsorted(mass, [0.02 * mass[-1], 0.98 * mass[-1]])
    return Seen(
        sample=sample._replace(image=b""), table=row.table.name, line=row.line, path=path, pixels=pixels,
        outline=outline(grey), ink_columns=int(last - first + 1) if mass[-1] else 0, contrast=float(paper - darkest),
    )  # fmt: skip


def outline(grey: np.ndarray) -> int:
    """A picture's outline: stays nearly the same when it is scaled, stored as JPEG, or made lighter.

    Args:
        grey: uint8 [height, width].

    Returns:
        384 bits; 0 where there is no contrast.
    """
    small = cv2.resize(grey, _OUTLINE_SIZE, interpolation=cv2.INTER_AREA).astype(float)
    contrast = small.max() - small.min()
    if contrast < 16:
        return 0
    # Paper is flat but for noise, whose sign would say nothing: only real steps count.
    bits = np.diff(small, axis=1) > contrast / 16
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def same_pictures(seen: Sequence[Seen]) -> list[tuple[int, int]]:
    """Pairs of rows whose pictures are the same, to the pixel or but for scale, compression and brightness.

    Returns:
        Positions in `seen`, the smaller first; each later row is paired with the first that it equals.
    """
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    first_with: dict[bytes, int] = {}
    pairs = []
    width = (_OUTLINE_SIZE[0] - 1) * _OUTLINE_SIZE[1] // _OUTLINE_BANDS
    for i, row in enumerate(seen):
        match = first_with.setdefault(row.pixels, i)
        if match != i:
            pairs.append((match, i))
            continue
        if row.outline.bit_count() < _OUTLINE_LEAST:
            continue
        keys = [(band, (row.outline >> band * width) & ((1 << width) - 1)) for band in range(_OUTLINE_BANDS)]
        keys = [key for key in keys if key[1].bit_count() >= 3]
        candidates = sorted({j for key in keys if len(buckets[key]) < _CROWDED_BUCKET for j in buckets[key]})
        match = next((j for j in candidates if _alike(seen[j], row)), i)
        if match != i:
            pairs.append((match, i))
        else:
            for key in keys:
                buckets[key].append(i)
    return pairs


def _alike(a: Seen, b: Seen) -> bool:
    shapes = [s.sample.width / s.sample.height for s in (a, b)]
    return (a.outline ^ b.outline).bit_count() <= _OUTLINE_DIFFERENT and abs(math.log(shapes[0] / shapes[1])) < 0.05


def misfits(seen: Sequence[Seen]) -> list[tuple[int, float]]:
    """Labels that are much too long or too short for the ink of their picture.

    How wide each character is written, in heights of the picture, is fitted to all rows (ridge regression, outliers
    left out, writers scaled to each other). An outlier differs from its fit by more than 4 robust standard deviations
    and a factor of 1.35.

    Returns:
        Positions in `seen` with the factor by which the ink is wider than it should be, largest deviation first.
    """
    rows = [i for i, s in enumerate(seen) if s.ink_columns > 0]
    if len(rows) < 50:
        return []
    texts, writers = [seen[i].sample.text for i in rows], [seen[i].sample.writer for i in rows]
    width = np.array([seen[i].ink_columns / seen[i].sample.height for i in rows])
    fitted = np.random.default_rng(0).permutation(len(rows))[:_FITTED]
    place = {c: i for i, c in enumerate(sorted(set("".join(texts))), 1)}
    counts = np.zeros((len(fitted), len(place) + 1))
    counts[:, 0] = 1
    for row, i in enumerate(fitted):
        for character, count in Counter(texts[i]).items():
            counts[row, place[character]] = count
    usual = float(np.median(width / [len(text) for text in texts]))
    prior = np.append(0.0, np.full(len(place), usual))
    scale, deviation, bound = np.ones(len(rows)), np.zeros(len(rows)), math.inf
    for _ in range(4):
        kept = np.abs(deviation[fitted]) <= bound
        design = counts[kept] * scale[fitted][kept, None]
        weights = prior + np.linalg.solve(
            design.T @ design + 3 * np.eye(len(prior)), design.T @ (width[fitted][kept] - design @ prior)
        )
        expected = np.array([weights[0] + sum(weights[place[c]] for c in text) for text in texts])
        residual = np.log(width / np.maximum(expected, 0.2 * usual))
        scale = np.exp(_by_writer(residual, writers))
        deviation = residual - np.log(scale)
        bound = max(4 * 1.4826 * float(np.median(np.abs(deviation))), math.log(1.35))
    found = [(rows[i], math.exp(deviation[i])) for i in np.flatnonzero(np.abs(deviation) > bound)]
    return sorted(found, key=lambda item: -abs(math.log(item[1])))


def _by_writer(values: np.ndarray, writers: Sequence[str]) -> np.ndarray:
    """The median of each row's writer; that of all rows for writers with fewer than 20."""
    groups: dict[str, list[float]] = defaultdict(list)
    for writer, value in zip(writers, values.tolist(), strict=True):
        groups[writer].append(value)
    overall = float(np.median(values))
    medians = {w: statistics.median(found) if len(found) >= 20 else overall for w, found in groups.items()}
    return np.array([medians[writer] for writer in writers])


def odd_labels(text: str) -> Iterator[str]:
    """Why a label looks wrong by itself, in words; nothing for an ordinary one."""
    for character in sorted(set(text)):
        category = unicodedata.category(character)
        if category in ("Cf", "Co", "Cn", "Zl", "Zp") or (category == "Zs" and character != " "):
            name = unicodedata.name(character, "unnamed").lower()
            yield f"holds U+{ord(character):04X} ({name}), which cannot be seen"
    if "  " in text:
        yield "holds two spaces in a row"
    if text.lower().strip(".?!-_ ") in NO_TEXT or not text.strip("?._-* "):
        yield "looks like a note that there is no text (data.placeholders)"
    scripts = {unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha()}
    scripts &= {"LATIN", "CYRILLIC", "GREEK"}
    if len(scripts) > 1:
        yield f"mixes {' and '.join(sorted(s.capitalize() for s in scripts))} letters, which look alike"


def check(
    results: Iterable[Seen | dataset.Reject], tables: Sequence[dataset.Table], notes: Sequence[str], config: Config
) -> dict[str, Any]:
    """Everything that can be said about a dataset.

    Args:
        results: of `look`, in the order of the rows.
        tables: label files.
        notes: of `dataset.find_tables`.
        config: settings of data and transform.

    Returns:
        A tree for `as_text` and `as_page`: `findings`, `splits`, `rejected`, `same`, `doubtful`, `characters`,
        `labels`, `frames` and counts.
    """
    seen, rejects = [], []
    for result in results:
        if isinstance(result, dataset.Reject):
            rejects.append(result)
        else:
            seen.append(result)
    by_split = {split: [s for s in seen if s.sample.split == split] for split in dataset.SPLITS}
    contents: dict[str, Any] = {
        "tables": [table.path for table in tables],
        "notes": list(notes),
        "rows": len(seen) + len(rejects),
        "rejected_rows": len(rejects),
        "rejected": _rejected(rejects, tables),
        "splits": {split: _split(rows) for split, rows in by_split.items()},
        "same": _same(seen),
        "doubtful": _doubtful(seen),
        "characters": _characters(by_split),
        "labels": _labels(seen),
        "frames": _frames(seen, config.transform),
        "writers": _writers(by_split),
    }
    contents["findings"] = [vars(finding) for finding in _findings(contents, seen, config).sorted()]
    return contents


def _split(rows: Sequence[Seen]) -> dict[str, Any]:
    lengths = [len(s.sample.text) for s in rows]
    return {
        "samples": len(rows), "writers": len({s.sample.writer for s in rows} - {""}),
        "labels": len({s.sample.text for s in rows}), "characters": sum(lengths),
        "median_length": statistics.median(lengths) if rows else None, "longest": max(lengths, default=None),
        "median_width": statistics.median([s.sample.width for s in rows]) if rows else None,
        "median_height": statistics.median([s.sample.height for s in rows]) if rows else None,
    }  # fmt: skip


def _rejected(rejects: Sequence[dataset.Reject], tables: Sequence[dataset.Table]) -> list[dict[str, Any]]:
    by_name = {table.name: table for table in tables}
    groups = []
    for reason, count in Counter(reject.reason for reject in rejects).most_common():
        examples = []
        for reject in [r for r in rejects if r.reason == reason][:3]:
            path = ""
            if not reason.startswith("picture_"):  # those cannot be shown
                with contextlib.suppress(dataset.Rejected):
                    path = dataset.resolve_image(reject.image.strip(), by_name[reject.table])
            examples.append({"row": reject.line, "table": reject.table, "detail": reject.detail, "path": path})
        groups.append({"reason": reason, "count": count, "examples": examples})
    return groups


def _same(seen: Sequence[Seen]) -> dict[str, list[dict[str, Any]]]:
    """Pairs of the same picture: `leaks` across splits, `contradictions` with other labels, `repeats`."""
    groups: dict[str, list[dict[str, Any]]] = {"leaks": [], "contradictions": [], "repeats": []}
    for i, j in same_pictures(seen):
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


def _doubtful(seen: Sequence[Seen]) -> dict[str, Any]:
    """Labels and pictures that look wrong, with the reason in words."""
    odd = [{**_row(s), "why": why} for s in seen for why in odd_labels(s.sample.text)]
    wrong_length = [
        {**_row(seen[i]), "why": f"the ink is {factor:.1f} times as wide as usual for {len(seen[i].sample.text)} "
         "characters" if factor > 1 else f"the ink is {1 / factor:.1f} times narrower than usual for "
         f"{len(seen[i].sample.text)} characters"}
        for i, factor in misfits(seen)
    ]  # fmt: skip
    empty = [{**_row(s), "why": "the picture shows nothing, or next to nothing"} for s in seen if s.contrast < FAINT]
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
    """How labels fit into the frames, and how many pictures are so long that they are made lower to fit in."""
    assert transform.height and transform.width
    limit = transform.width / transform.height
    shrunk = [s.sample.width / s.sample.height / limit for s in seen if s.sample.width / s.sample.height > limit]
    sizes = [(s.sample.width, s.sample.height, s.sample.text) for s in seen]
    return {
        "crowding": geometry.crowding(sizes, transform), "height": transform.height, "width": transform.width,
        "preset": transform.preset, "shrunk": len(shrunk) if transform.resize == "pad" else 0,
        "shrunk_by": statistics.median(shrunk) if shrunk else 1.0,
    }  # fmt: skip


def _writers(by_split: Mapping[str, Sequence[Seen]]) -> dict[str, Any]:
    """Writers by the splits that they are in, where that is more than one."""
    splits: dict[str, dict[str, int]] = defaultdict(dict)
    for split, rows in by_split.items():
        for writer, count in Counter(s.sample.writer for s in rows if s.sample.writer).items():
            splits[writer][split] = count
    shared = {writer: found for writer, found in sorted(splits.items()) if len(found) > 1}
    return {"known": len(splits), "shared": shared}


def _findings(contents: Mapping[str, Any], seen: Sequence[Seen], config: Config) -> Findings:
    result = Findings()
    _about_splits(contents, result)
    _about_labels(contents, len(seen), result)
    _about_characters(contents["characters"], result)
    _about_sizes(contents, len(seen), result)
    rejected, rows = contents["rejected_rows"], contents["rows"]
    if rejected > config.data.max_rejected * rows:
        result.problem("rejected", f"{rejected} of {rows} rows would be rejected; data.max_rejected allows "
                       f"{config.data.max_rejected:.1%}.", "The reasons are listed; one cause often explains "
                       "most of them.")  # fmt: skip
    return result


def _about_splits(contents: Mapping[str, Any], result: Findings) -> None:
    shared = contents["writers"]["shared"]
    judged = {writer: found["eval"] for writer, found in shared.items() if "eval" in found}
    if judged:
        result.problem(
            "leaked_writers",
            f"Writers of the evaluation split who also wrote pictures of other splits: {some(list(judged))} ("
            f"{sum(judged.values())} of {contents['splits']['eval']['samples']} evaluation pictures). The error on "
            f"unknown hands would be underestimated.",
            "The split column or the file names give these splits: drop them, and writers stay together.",
        )
    elif shared:
        result.note("shared_writers", f"Writers who are both in training and validation: {some(list(shared))}. The "
                    "CER that training watches is lower than on unknown hands.")  # fmt: skip
    if not contents["writers"]["known"]:
        result.note("no_writers", "No writers are named: pictures are split one by one, and the error on hands that "
                    "the model has never seen is underestimated.", "Add a writer column where known.")  # fmt: skip
    leaks = contents["same"]["leaks"]
    if leaks:
        pair = leaks[0]
        result.problem(
            "leaked_pictures",
            f"Pictures in more than one split: {len(leaks)}, for example {pair['first']['id']} "
            f"({pair['first']['split']}) and {pair['second']['id']} ({pair['second']['split']}): the figures would be "
            "too good.",
            "Remove one of each pair, or give both rows the same writer or split.",
        )
    for split, found in contents["splits"].items():
        if not found["samples"]:
            result.problem("empty_split", f"No picture falls into {split}: the run would stop.", "Add data or writers, "
                           "or draw again with another data.split_salt.")  # fmt: skip


def _about_labels(contents: Mapping[str, Any], samples: int, result: Findings) -> None:
    same, doubtful = contents["same"], contents["doubtful"]
    if same["contradictions"]:
        pair = same["contradictions"][0]
        result.problem(
            "contradictions",
            f"Pictures with two labels: {len(same['contradictions'])}, for example {pair['first']['text']!r} in "
            f"{pair['first']['place']} and {pair['second']['text']!r} in {pair['second']['place']}.",
            "One of the two is wrong, or a wrong picture is named.",
        )
    if same["repeats"]:
        result.note("repeats", f"Pictures twice in one split under the same label: {len(same['repeats'])}.",
                    "They count twice in training and in the figures.")  # fmt: skip
    count = len(doubtful["misfits"])
    if count:
        share = count / max(samples, 1)
        shown = some([f"{row['text']!r} in row {row['place'].split()[1]}" for row in doubtful["misfits"]], 3)
        if share > 0.01:
            result.problem(
                "swapped_labels",
                f"{count} labels ({share:.1%}) are much too long or too short for the ink of their picture ({shown}). "
                f"Labels that belong to other pictures look like that, and several times as many of them would fit by "
                f"chance; so do pictures with rules, stains or more words than the label.",
                "Look at them with --html. Were rows swapped or shifted against the pictures?",
            )
        else:
            result.note("misfits", f"Labels that are much too long or too short for the ink of their picture: {count} "
                        f"({shown}).", "Look at them with --html.")  # fmt: skip
    for kind, text in (("odd", "Labels that look wrong by themselves"), ("empty", "Pictures with next to nothing on "
                       "them"), ("dark", "Pictures with light writing on a dark ground")):  # fmt: skip
        if doubtful[kind]:
            row = doubtful[kind][0]
            why = f" {row['why']}" if kind == "odd" else ""
            result.note(f"{kind}_{'labels' if kind == 'odd' else 'pictures'}", f"{text}: {len(doubtful[kind])}, for "
                        f"example {row['place']}: {row['text']!r}{why}.")  # fmt: skip


def _about_characters(characters: Sequence[Mapping[str, Any]], result: Findings) -> None:
    new = [c for c in characters if not c["train"]]
    if new:
        shown = some([f"{figures.visible(c['character'])} ({c['total']})" for c in new], 16)
        result.problem(
            "new_characters",
            f"Characters that occur outside the training split only, so that the model could never write them: "
            f"{shown}.",
            "Add training pictures with them, or set data.alphabet to reject such labels.",
        )
    rare = [c for c in characters if 0 < c["train"] < RARE]
    if rare:
        shown = some([f"{figures.visible(c['character'])} ({c['train']})" for c in rare], 16)
        result.note("rare_characters", f"Characters that occur fewer than {RARE} times in training and will hardly "
                    f"be learnt: {shown}.")  # fmt: skip


def _about_sizes(contents: Mapping[str, Any], samples: int, result: Findings) -> None:
    frames = contents["frames"]
    if frames["crowding"] > geometry.CROWDED and frames["preset"] == "word":
        result.note("crowded", f"One label in twenty needs {frames['crowding']:.0%} or more of its picture's frames.",
                    "More frames read better: --set transform.preset=line")  # fmt: skip
    if frames["shrunk"] > 0.05 * samples and frames["shrunk_by"] > 1.25:
        result.note(
            "long_pictures",
            f"{frames['shrunk']} pictures are longer than {frames['width']} x {frames['height']} columns can hold and "
            f"are made lower, half of them by a factor of {frames['shrunk_by']:.1f} or more.",
            "A larger transform.width keeps their writing at full height"
            + (": --set transform.preset=line" if frames["preset"] == "word" else "."),
        )
    if 0 < samples < 1000:
        result.note("little_data", f"{samples} pictures are little to learn from: thousands make a model that reads "
                    "other words and hands than these.")  # fmt: skip


def as_text(contents: Mapping[str, Any]) -> str:
    """The check for a terminal."""
    lines = [f"Note: {note}" for note in contents["notes"]]
    lines.append(f"{contents['rows']} rows in {', '.join(contents['tables'])}")
    for split, found in contents["splits"].items():
        writers = f", {found['writers']} writers" if found["writers"] else ""
        lines.append(f"  {found['samples']:7d} accepted for {split}{writers}")
    for group in contents["rejected"]:
        row = group["examples"][0]
        where = f"row {row['row']} of {row['table']}"
        lines.append(f"  {group['count']:7d} rejected: {group['reason']}, e.g. {where}: {row['detail']}")
    characters = sorted(c["character"] for c in contents["characters"])
    lines.append(f"{len(characters)} characters: {''.join(characters)}")
    labels = contents["labels"]
    frequent = ", ".join(f"{row['text']} ({row['count']})" for row in labels["frequent"][:5] if row["count"] > 1)
    lines.append(f"{labels['distinct']} different labels" + (f", most often {frequent}" if frequent else ""))
    for finding in contents["findings"]:
        lines += ["", f"{finding['severity'].capitalize()}: {finding['text']}"]
        if finding["advice"]:
            lines.append(f"  Suggestion: {finding['advice']}")
    if not contents["findings"]:
        lines += ["", "Nothing suspicious was found."]
    return "\n".join(lines)


def as_page(contents: Mapping[str, Any]) -> str:
    """The check as one self-contained HTML page, with the pictures that it is about."""
    made = environment()
    made.filters["picture"] = _picture
    named = ", ".join(sorted({os.path.basename(os.path.dirname(path)) for path in contents["tables"]}))
    return made.get_template("check.html.j2").render(c=contents, named=named, shown=SHOWN)


def _picture(path: str) -> str:
    """A picture's thumbnail as a data URI; empty if it cannot be shown."""
    if not path:
        return ""
    try:
        with storage.open_file(path) as file:
            shown = figures.thumbnail(file.read(), 420, 80)
    except OSError:
        return ""
    return shown[0] if shown else ""
