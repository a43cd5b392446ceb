"""What `htr run --task pages` says at its end; `run` has what both tasks share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.report.summary import RunSummary
    from pipeline.config import Config


def write_report(summary: RunSummary, config: Config) -> Path:
    """Copies the report of a run into its workspace and returns the file's path."""
    from components.common import storage
    from components.report.report import PAGE_FILE

    path = Path(config.workspace) / "reports" / f"lines-{summary.name.replace(':', '-')}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write(str(path), storage.read(f"{summary.report_folder}/{PAGE_FILE}"))
    return path


def figures(summary: RunSummary) -> list[str]:
    """Lines for the terminal about the line finder."""
    told = summary.metrics or {}
    m, before, compared = told["metrics"], told["baseline"], _compared_with(told)
    if before:
        compared = f"ratio {before['cer_ratio']:.3f}, F1 {before['f1']:.4f} ({compared}; same pages)"
    return [
        f"CER        {m['cer']:.4f} in found lines, {m['cer_true']:.4f} in true ones: ratio {m['cer_ratio']:.3f}",
        f"           {m['cer_pages']:.4f} of whole pages, where text without a label counts as errors",
        f"Lines      F1 {m['f1']:.4f} (precision {m['precision']:.4f}, recall {m['recall']:.4f})",
        f"Before     {compared}",
        *(f"Gate       {setting} is off" for setting in told["off"]),
    ]


def refusal(summary: RunSummary) -> str:
    """Why the line finder is not blessed, for the terminal."""
    return f"The line finder is not blessed: {'; '.join((summary.metrics or {})['failures'])}. Nothing was pushed."


def as_json(summary: RunSummary, config: Config) -> dict[str, Any]:
    """The one line of `htr run --task pages --json`."""
    told = summary.metrics or {}
    return {
        "blessed": told["blessed"],
        **told["metrics"],
        "model_dir": config.line_finder_dir, "version": summary.version, "withdrawn_version": summary.withdrawn,
        "baseline": _compared_with(told), "baseline_cer_ratio": (told["baseline"] or {}).get("cer_ratio"),
        "rejected": summary.counts["rejected"], "failures": told["failures"], "off": told["off"],
    }  # fmt: skip


def _compared_with(told: dict[str, Any]) -> str:
    from components.evaluator.verdict import Baseline

    return str(Baseline(**told["compared_with"]))
