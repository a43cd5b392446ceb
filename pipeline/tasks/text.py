"""The task `text`: a recogniser from images of words and lines with labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.example_gen.rejects import REJECTS_FILE
from pipeline.tasks.task import Task

if TYPE_CHECKING:
    from components.report.summary import RunSummary
    from pipeline.config import Config


class Text(Task):
    """See the module."""

    name = "text"
    samples, row, rejects_file = "Images", "row", REJECTS_FILE

    def check(self, config: Config) -> None:  # noqa: D102
        from components.common.console import console
        from components.example_gen.folders import find
        from components.example_gen.plan import make_plan
        from pipeline import preflight

        tables, notes, passed_over = find(config.data)
        plan = make_plan(tables, config.data, passed_over)
        preflight.check_run(config, tables, plan)
        for kind, sentences in (("Warning", plan.problems), ("Note", (*notes, *plan.notes))):
            for sentence in sentences:
                console().print(f"{kind}: {sentence}", markup=False)

    def write_report(self, run: RunSummary, config: Config) -> Path:  # noqa: D102
        from components.common import storage

        path = Path(config.workspace) / "reports" / f"{run.name.replace(':', '-')}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write(str(path), run.page().encode())
        return path

    def figures(self, run: RunSummary) -> list[str]:  # noqa: D102
        if not run.verdict:
            return []
        m, before, compared = run.verdict.metrics, run.verdict.baseline, run.verdict.compared_with
        lines = [f"CER        {m['cer']:.4f} ({m['cer_low']:.4f} to {m['cer_high']:.4f}), WER {m['wer']:.4f}"]
        if m.get("cer_default") != m.get("cer_best_path"):
            lines.append(
                f"Language   CER {m['cer_default']:.4f} with the language model, {m['cer_best_path']:.4f} without"
            )
        if before:
            lines.append(f"Before     CER {before['cer']:.4f} ({compared or 'the model before'}; same images)")
        elif compared:
            lines.append(f"Before     {compared}")
        for finding in (run.metrics or {}).get("findings", []):
            if finding["kind"] in ("leaked_images", "leaked_start", "leaked_baseline"):  # the figures above mislead
                lines.append(f"{'Warning' if finding['severity'] == 'problem' else 'Note':10s} {finding['text']}")
        return [*lines, *(f"Gate       {setting} is off" for setting in run.off)]

    def refusal(self, run: RunSummary) -> str:  # noqa: D102
        failures = "; ".join(map(str, run.verdict.failures)) if run.verdict else "no verdict"
        told = f"The model is not blessed: {failures}. Nothing was pushed."
        if run.next_steps:
            told += "\n\nWhat to try:\n" + "\n".join(f"  {n}. {step}" for n, step in enumerate(run.next_steps, 1))
        return told

    def as_json(self, run: RunSummary, config: Config) -> dict[str, Any]:  # noqa: D102
        verdict = run.verdict
        metrics = verdict.metrics if verdict else {}
        compared = verdict.compared_with if verdict else None
        return {
            "blessed": bool(verdict and verdict.blessed),
            "cer": metrics.get("cer"), "cer_low": metrics.get("cer_low"), "cer_high": metrics.get("cer_high"),
            "cer_best_path": metrics.get("cer_best_path"), "wer": metrics.get("wer"),
            "model_dir": config.model_dir, "version": run.version, "withdrawn_version": run.withdrawn,
            "baseline": str(compared) if compared else None,
            "baseline_version": compared.version if compared else None,
            "baseline_cer": verdict.baseline["cer"] if verdict and verdict.baseline else None,
            "rejected": run.counts["rejected"],
            "failures": [str(failure) for failure in verdict.failures] if verdict else [],
            "off": run.off,
            "next_steps": run.next_steps,
        }  # fmt: skip

    def listing(self, runs: list[RunSummary]) -> str:  # noqa: D102
        from components.report import recogniser_runs

        return recogniser_runs.listing(runs)

    def compare(self, before: RunSummary, after: RunSummary) -> str:  # noqa: D102
        from components.report import recogniser_runs

        return recogniser_runs.compare(before, after)
