"""The report's figures as inline SVG: plots by matplotlib, and images with what the network saw in them.

Colours are CSS variables of the page, so that a figure follows light and dark display and prints in dark ink.
"""

from __future__ import annotations

import base64
import html
import io
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from components.common import storage
from components.common.words import counted, visible
from htr_client import image_files
from htr_client.errors import ImageError
from htr_client.spans import EARLY

# Colours in matplotlib's output that stand for variables of the page's style sheet.
_INK, _SOFT, _ACCENT, _SECOND, _THIRD = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {_INK: "var(--ink)", _SOFT: "var(--soft)", _ACCENT: "var(--accent)", _SECOND: "var(--second)",
              _THIRD: "var(--third)"}  # fmt: skip
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "htr", "font.family": "sans-serif", "font.size": 9,
    "text.color": _INK, "axes.edgecolor": _SOFT, "axes.labelcolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
    "axes.grid": True, "grid.color": _SOFT, "grid.alpha": 0.35, "grid.linewidth": 0.6,
    "legend.frameon": False, "lines.linewidth": 1.8,
}  # fmt: skip
SHOWN_WIDTH, SHOWN_HEIGHT = 900, 160
_HEAT_ROWS = 26  # characters of a figure at most


def _svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element that scales with its column, as far as its letters stay readable."""
    file = io.StringIO()
    # `savefig` draws everything twice, the first time for the layout, which drawing once finds as well.
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    FigureCanvasSVG(figure).print_svg(file, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # Several figures share the page: their clip paths must not share names.
    prefix = f"f{zlib.crc32(text.encode()):x}"
    text = re.sub(r'(id="|url\(#|xlink:href="#)', lambda found: found[1] + prefix, text)
    text = re.sub(r"font: ([^;\"]*?)'?sans-serif'?", r"font: \1sans-serif", text)
    width = 72 * figure.get_figwidth()  # in points, as the viewBox and the sizes of letters
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        rf'<svg class="plot" role="img" aria-label="{html.escape(label)}" viewBox="\1" '
        rf'style="min-width:{1.1 * width:.0f}px;max-width:{1.6 * width:.0f}px" '
        r'xmlns:xlink="http://www.w3.org/1999/xlink">',
        text, count=1,
    )  # fmt: skip


def _figure(width: float = 5.2, height: float = 2.6, **kinds: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**kinds)


def learning_curves(history: Sequence[Mapping[str, Any]], kept: int | None, measure: str = "validation_cer") -> str:
    """Training loss and validation CER or F1 by epoch, with the epoch whose weights were kept; epoch 0 has no loss.

    Args:
        history: Entries of the epochs.
        kept: Epoch whose weights were kept, which need not be the one with the best figure; None marks none.
        measure: Key of the measure: "validation_cer" or "f1".
    """
    name, above = ("F1", -14) if measure == "f1" else ("CER", 7)
    with matplotlib.rc_context(_STYLE):
        figure, (loss_axis, axis) = _figure(5.2, 2.5, ncols=2)
        epochs = [entry["epoch"] for entry in history]
        losses = [math.nan if entry["loss"] is None else entry["loss"] for entry in history]
        loss_axis.plot(epochs, losses, color=_SECOND, marker=".", markersize=3)
        loss_axis.set(xlabel="epoch", title="training loss" if name == "F1" else "training loss (nats an image)")
        values = [100 * entry[measure] for entry in history]
        axis.plot(epochs, values, color=_ACCENT, marker=".", markersize=3)
        if kept in epochs:
            place = epochs.index(kept)
            axis.plot(kept, values[place], "o", color=_ACCENT, markersize=6)
            axis.annotate(f"{values[place]:.2f} %", (kept, values[place]), (0, above), textcoords="offset points",
                          ha="right" if place > len(values) / 2 else "left")  # fmt: skip
        axis.set(xlabel="epoch", title=f"validation {name}, %", ylim=(0, None))
        for each in (loss_axis, axis):
            each.set_title(each.get_title(), fontsize=9, pad=14)  # above the label of the epoch that was kept
            each.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        return _svg(figure, f"Training loss and validation {name} over {counted(history[-1]['epoch'], 'epoch')}")


def reliability(calibration: Mapping[str, Any]) -> str:
    """Share of right texts by confidence, against the diagonal."""
    with matplotlib.rc_context(_STYLE):
        figure, axis = _figure(2.9, 2.7)
        axis.plot([0, 1], [0, 1], color=_SOFT, linestyle="--", linewidth=1)
        bins = calibration["bins"]
        axis.plot([b["confidence"] for b in bins], [b["right"] for b in bins], color=_ACCENT, marker="o", markersize=4)
        axis.set(xlabel="confidence", ylabel="share exactly right", xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        return _svg(figure, "Reliability: share of exactly right texts by confidence")


def review_curve(predictions_confidence: np.ndarray, edits: np.ndarray, lengths: np.ndarray) -> str:
    """CER of the accepted images by the share that goes to a person.

    Args:
        predictions_confidence: float [N].
        edits: int [N].
        lengths: int [N], of the references.
    """
    order = np.argsort(predictions_confidence, kind="stable")[::-1]
    accepted = np.cumsum(edits[order]) / np.maximum(np.cumsum(lengths[order]), 1)
    share = 1 - np.arange(1, len(order) + 1) / max(len(order), 1)
    kept = np.unique(np.linspace(0, max(len(order) - 1, 0), min(200, len(order))).astype(int))
    with matplotlib.rc_context(_STYLE):
        figure, axis = _figure(2.9, 2.7)
        axis.plot(100 * share[kept], 100 * accepted[kept], color=_ACCENT)
        axis.set(xlabel="sent to a person, % of images", ylabel="CER of the rest, %", xlim=(0, 95), ylim=(0, None))
        return _svg(figure, "Error rate of the rest by the share of images sent to a person")


def confusion_matrix(characters: Sequence[str], counts: np.ndarray) -> str:
    """Truth by read characters; what was read right is left out, so that errors have the whole scale.

    Args:
        characters: Characters of the rows and all columns but the last.
        counts: int [n, n + 1]; the last column counts characters that were not read.
    """
    errors = counts.astype(float)
    n = len(characters)
    np.fill_diagonal(errors[:, :n], 0)
    top = max(errors.max(), 1)
    with matplotlib.rc_context({**_STYLE, "axes.grid": False, "font.size": 8}):
        size = 1.1 + 0.27 * n
        figure, axis = _figure(size + 0.4, size)
        for (i, j), count in np.ndenumerate(errors):
            if i == j:
                axis.plot(j, i, ".", color=_SOFT, markersize=3)
            elif count:
                axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=_ACCENT, linewidth=0,
                                                            alpha=0.12 + 0.55 * count / top))  # fmt: skip
                axis.text(j, i, f"{int(count)}", ha="center", va="center", fontsize=7)
        names = [visible(c) for c in characters]
        axis.set(xticks=range(n + 1), yticks=range(n), xlabel="recognised as", ylabel="truth", xlim=(-0.6, n + 0.6),
                 ylim=(n - 0.4, -0.6))  # fmt: skip
        axis.set_xticklabels([*names, "nothing"])
        axis.set_yticklabels(names)
        axis.get_xticklabels()[-1].set_rotation(90)
        axis.xaxis.tick_top()
        axis.xaxis.set_label_position("top")
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        return _svg(figure, "Confusion matrix of the characters that are most often taken for others")


def distributions(splits: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Histograms of lengths and image measures, one line a split, as shares.

    Args:
        splits: Values float [N] by measure by split.
    """
    titles = {"text_length": "characters of the label", "width": "width, px", "height": "height, px",
              "ink_share": "dark pixels, share", "sharpness": "sharpness", "paper_level": "grey of paper"}  # fmt: skip
    colours = dict(zip(splits, (_ACCENT, _SECOND, _THIRD), strict=False))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(6.4, 3.4, nrows=2, ncols=3)
        for axis, (name, title) in zip(axes.flat, titles.items(), strict=True):
            everything = np.concatenate([values[name] for values in splits.values()])
            axis.set_yticks([])
            if len(everything) and everything.min() == everything.max():
                axis.set_xticks([])
                axis.text(0.5, 0.5, f"always {everything[0]:g}", ha="center", transform=axis.transAxes)
            elif len(everything):
                low, high = np.quantile(everything, [0.001, 0.999])
                edges = np.linspace(low, max(high, low + 1e-6), 25)
                if name == "text_length":
                    edges = np.arange(low - 0.5, high + 1, max(1, int((high - low) / 25)))
                for split, values in splits.items():
                    counts, _ = np.histogram(np.clip(values[name], edges[0], edges[-1]), edges)
                    shares = counts / max(len(values[name]), 1)
                    axis.stairs(shares, edges, color=colours[split], label=split, linewidth=1.4)
            axis.set_title(title, fontsize=8)
            axis.tick_params(labelsize=7)
        figure.supylabel("share of images", fontsize=8)
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        return _svg(figure, "Distributions of label lengths and image measures by split")


def thumbnail(encoded: bytes, width: int = SHOWN_WIDTH, height: int = SHOWN_HEIGHT) -> tuple[str, int, int] | None:
    """A small grey image as a data URI, with its width and height; None for what cannot be decoded."""
    try:
        grey = image_files.load(encoded)
    except ImageError:
        return None
    scale = min(width / grey.shape[1], height / grey.shape[0], 1.0)
    if scale < 1:
        size = (max(round(grey.shape[1] * scale), 1), max(round(grey.shape[0] * scale), 1))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}", grey.shape[1], grey.shape[0]


def thumbnail_of(path: str, width: int, height: int) -> str:
    """As `thumbnail`, of a file, here or in a bucket: the data URI; empty for what cannot be read or decoded."""
    try:
        shown = thumbnail(storage.read(path, image_files.MAX_BYTES + 1), width, height)
    except OSError:
        return ""
    return shown[0] if shown else ""


def alignment(
    image: bytes,
    probabilities: np.ndarray,
    alphabet: Sequence[str],
    read: Iterable[tuple[str, float, tuple[float, float]]],
    truth: Iterable[tuple[str, float, tuple[float, float]]],
    used: float = 1.0,
) -> tuple[str, int]:
    """An image, the characters read below it, and the probability of each character in each frame as a heat map.

    Args:
        image: Encoded image.
        probabilities: float [frames, C] of the valid frames, the blank last.
        alphabet: Characters of the classes.
        read: Characters of the prediction with confidence and span as shares of the image's width.
        truth: Characters of the label with probability and span, aligned by force.
        used: Share of the frames' columns that the image covers; the rest is padding of the last frame.

    Returns:
        SVG element, and its width in pixels at full size.
    """
    frames = len(probabilities)
    shown = thumbnail(image)
    if frames == 0 or shown is None:
        return "", 0
    read, truth = list(read), list(truth)
    left, per_frame = 20, max(8.0 if frames <= 40 else 3.5, 100 / frames)
    width = frames * per_frame
    early = EARLY * per_frame  # the heat map moves as the characters do, to stand below them
    high = min(shown[2] * width * used / shown[1], 110.0)
    rows = _heat_rows(probabilities, alphabet, [c for c, _, _ in truth])
    row_height, y = 9, high + 36
    total = y + row_height * len(rows) + 2
    heat = np.zeros((max(len(rows), 1), frames, 4), np.uint8)
    heat[..., :3] = (214, 120, 40)  # BGR: reads on light and dark pages alike
    for i, character in enumerate(rows):
        heat[i, :, 3] = np.round(255 * np.clip(probabilities[:, alphabet.index(character)], 0, 1))
    data = base64.b64encode(cv2.imencode(".png", heat)[1].tobytes()).decode()
    parts = [
        f'<svg class="reading" role="img" aria-label="image and heat map of the characters" '
        f'viewBox="0 0 {left + width + early:.0f} {total:.0f}" style="max-width:{1.15 * (left + width):.0f}px">',
        _characters(truth, left, width * used, 10, "t"),
        f'<image x="{left}" y="14" width="{width * used:.1f}" height="{high:.1f}" preserveAspectRatio="none" '
        f'href="{shown[0]}"/>',
        _characters(read, left, width * used, high + 26, "p"),
        f'<image x="{left + early:.1f}" y="{y:.1f}" width="{width:.1f}" height="{row_height * len(rows)}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>',
    ]
    for i, character in enumerate(rows):
        base = y + row_height * (i + 1)
        parts.append(f'<text class="c" x="{left - 4}" y="{base - 1.5:.1f}">{html.escape(visible(character))}</text>')
        parts.append(f'<path class="l" d="M{left} {base:.1f}H{left + width:.0f}"/>')
    return "".join(parts) + "</svg>", int(left + width)


def _heat_rows(probabilities: np.ndarray, alphabet: Sequence[str], truth: Sequence[str]) -> list[str]:
    """Characters with a noticeable probability somewhere, and those of the truth, from left to right."""
    peaks = probabilities[:, :-1].max(axis=0) if probabilities.shape[1] > 1 else np.zeros(0)
    chosen = [alphabet[i] for i in np.argsort(-peaks)[:_HEAT_ROWS] if peaks[i] >= 0.1]
    chosen += [c for c in dict.fromkeys(truth) if c not in chosen][: max(_HEAT_ROWS - len(chosen), 0)]
    return sorted(chosen, key=lambda c: int(probabilities[:, alphabet.index(c)].argmax()))


def _characters(
    characters: Sequence[tuple[str, float, tuple[float, float]]], left: float, width: float, y: float, name: str
) -> str:
    """Characters of a label ("t") or of a prediction ("p"), which are fainter where the model is unsure."""
    return "".join(
        f'<text class="{name}" x="{left + width * (a + b) / 2:.1f}" y="{y:.1f}"'
        + (f' style="opacity:{0.65 + 0.35 * min(max(p, 0.0), 1.0):.2f}"' if name == "p" else "")
        + f">{html.escape(visible(c))}</text>"
        for c, p, (a, b) in characters
    )
