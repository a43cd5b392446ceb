"""Artifacts that one step writes and another reads."""

from __future__ import annotations

from tfx.types.artifact import Artifact


class Report(Artifact):
    """Report of a run; `components.report.component` lists the files."""

    TYPE_NAME = "htr.Report"  # the form that Kubeflow asks for
