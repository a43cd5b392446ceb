"""The task `pages`: a line finder from pages with PAGE XML or ALTO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.tasks.task import NoReport, Task

if TYPE_CHECKING:
    from components.report.summary import RunSummary
    from pipeline.config import Config


class Pages(Task):
    """See the module."""

    name = "pages"
    samples, row, rejects_file = "Pages ", "page", "rejected-pages.csv"

    def check(self, config: Config) -> None:  # noqa: D102
        from pipeline import preflight

        preflight.check_pages(config)

    def write_report(self, run: RunSummary, config: Config) -> Path:  # noqa: D102
        from components.common import storage
        from components.report.html import PAGE_FILE

        if not run.report_folder:
            raise NoReport(f"The run {run.name} has no report: {run.outcome}.")
        path = Path(config.workspace) / "reports" / f"lines-{run.name.replace(':', '-')}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write(str(path), storage.read(f"{run.report_folder}/{PAGE_FILE}"))
        return path

    def figures(self, run: RunSummary) -> list[str]:  # noqa: D102
        told = run.metrics or {}
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

    def refusal(self, run: RunSummary) -> str:  # noqa: D102
        return f"The line finder is not blessed: {'; '.join((run.metrics or {})['failures'])}. Nothing was pushed."

    def as_json(self, run: RunSummary, config: Config) -> dict[str, Any]:  # noqa: D102
        told = run.metrics or {}
        return {
            "blessed": told["blessed"],
            **told["metrics"],
            "model_dir": config.line_finder_dir, "version": run.version, "withdrawn_version": run.withdrawn,
            "baseline": _compared_with(told), "baseline_cer_ratio": (told["baseline"] or {}).get("cer_ratio"),
            "rejected": run.counts["rejected"], "failures": told["failures"], "off": told["off"],
        }  # fmt: skip

    def listing(self, runs: list[RunSummary]) -> str:  # noqa: D102
        from components.report import line_finder_runs

        return line_finder_runs.listing(runs)

    def compare(self, before: RunSummary, after: RunSummary) -> str:  # noqa: D102
        from components.report import line_finder_runs

        return line_finder_runs.compare(before, after)


def _compared_with(told: dict[str, Any]) -> str:
    from components.evaluator.verdict import Baseline

    return str(Baseline(**told["compared_with"]))
