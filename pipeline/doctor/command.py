"""What `htr doctor` prints, and its exit code."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pipeline.doctor import examination, gpu_comparison


def run(arguments: argparse.Namespace, workspace: str) -> int:
    """Examines the machine, or measures it with --gpu.

    Args:
        arguments: `gpu`, `device`, `seconds`, `json`.
        workspace: Folder of the runs.

    Returns:
        0, or 1 if something prevents work, or there is no GPU to measure.
    """
    findings = examination.examine(workspace, wait=_tell)
    problems = [text for finding in findings for text in finding.problems]
    if not arguments.gpu:
        print(_line(examination.as_json(findings)) if arguments.json else examination.as_text(findings))
        if not problems and not arguments.json:
            print("\nNothing prevents work.")
        return 1 if problems else 0
    by_name = {finding.name: finding for finding in findings}
    if arguments.device == "gpu" and not by_name["TensorFlow"].values.get("gpus"):
        error = "TensorFlow sees no GPU here. `htr doctor --gpu --device cpu` measures the CPU alone."
        return _end_early(findings, [by_name["GPU"], by_name["TensorFlow"]], arguments.json, error)
    if problems:
        return _end_early(findings, findings, arguments.json)
    try:
        found = gpu_comparison.compare(arguments.device, arguments.seconds, _tell)
    except gpu_comparison.BenchmarkError as failure:
        return _end_early(findings, [], arguments.json, str(failure))
    report = [f"- {by_name[name].name}: {by_name[name].text}"
              for name in ("htr", "Stack", "System", "Processor", "Cores", "Memory", "GPU", "TensorFlow")]  # fmt: skip
    problems = found.problems()
    if arguments.json:
        figures = {
            "images": found.images,
            "trainings": [{"name": t.name, "epochs": t.epochs, "rate": t.rate, **t.figures} for t in found.trainings],
            "transcriptions": [
                {"model": t.model, "device": t.device, "precision": t.precision, **t.figures}
                for t in found.transcriptions
            ],
            "problems": problems,
        }
        print(_line({**examination.as_json(findings), **figures}))
    else:
        print("\n".join(["### htr doctor --gpu", "", *report, "", found.as_markdown(), "", *problems]).rstrip())
    return 1 if problems else 0


def _end_early(
    findings: list[examination.Finding], shown: list[examination.Finding], as_json: bool, error: str = ""
) -> int:
    """Prints why nothing is measured.

    Args:
        findings: All findings, which programs get.
        shown: Findings that people get.
        as_json: Whether a program reads the output.
        error: Another reason than the problems of the findings.

    Returns:
        The exit code.
    """
    if as_json:
        report = examination.as_json(findings)
        report["problems"] += [error] if error else []
        print(_line(report))
    elif shown:
        print(examination.as_text(shown))
    if error:
        _tell(f"error: {error}")
    return 1


def _line(report: dict[str, Any]) -> str:
    return json.dumps(report, ensure_ascii=False)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
