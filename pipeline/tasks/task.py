"""What commands and the local runner ask of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from components.report.summary import RunSummary
    from pipeline.config import Config


class Task(ABC):
    """A task: its checks, its words and its figures. Its steps are in `definition.py` or `page_definition.py`.

    Attributes:
        name: As in the configuration.
        samples: What a run learns from, for a heading.
        row: What is accepted or rejected, one of them.
        rejects_file: Name of the file in the workspace that lists what was rejected.
    """

    name: ClassVar[str]
    samples: ClassVar[str]
    row: ClassVar[str]
    rejects_file: ClassVar[str]

    @abstractmethod
    def check(self, config: Config) -> None:
        """Looks at data and settings before the first step, and prints what people should know of them.

        Args:
            config: All settings, with absolute paths.

        Raises:
            ConfigError: Naming every setting that cannot work.
            DatasetError: The data cannot be read.
            OSError: A disk is full or read-only.
        """

    @abstractmethod
    def write_report(self, run: RunSummary, config: Config) -> Path:
        """Writes the HTML report of a run into its workspace.

        Args:
            run: The run.
            config: All settings.

        Returns:
            The file.

        Raises:
            NoReport: The run did not come so far.
        """

    @abstractmethod
    def figures(self, run: RunSummary) -> list[str]:
        """Lines for the terminal about the model of a run."""

    @abstractmethod
    def refusal(self, run: RunSummary) -> str:
        """Why the model of a run is not blessed, for the terminal."""

    @abstractmethod
    def as_json(self, run: RunSummary, config: Config) -> dict[str, Any]:
        """The one line of `htr run --json`."""

    @abstractmethod
    def listing(self, runs: list[RunSummary]) -> str:
        """A table of runs for the terminal."""

    @abstractmethod
    def compare(self, before: RunSummary, after: RunSummary) -> str:
        """What changed between two runs, for the terminal.

        Args:
            before: The earlier one.
            after: The later one.

        Raises:
            NothingToCompare: One of them has no figures.
        """


class NoReport(LookupError):
    """A run has no report."""
