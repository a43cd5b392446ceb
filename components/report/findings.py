"""What a person should know first, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.common.words import counted


@dataclass(frozen=True)
class Finding:
    """Something that was noticed.

    Attributes:
        kind: One of a few words, for tests and tools.
        severity: "problem": figures or data are wrong; "note": worth a look.
        text: What was found.
        advice: What to do; may be empty.
    """

    kind: str
    severity: str
    text: str
    advice: str = ""


@dataclass
class Findings:
    """Collects findings; `sorted` has problems first."""

    found: list[Finding] = field(default_factory=list)

    def problem(self, kind: str, text: str, advice: str = "") -> None:
        """Adds a problem."""
        self.found.append(Finding(kind, "problem", text, advice))

    def note(self, kind: str, text: str, advice: str = "") -> None:
        """Adds a note."""
        self.found.append(Finding(kind, "note", text, advice))

    def sorted(self) -> list[Finding]:
        """All of them, problems before notes."""
        return sorted(self.found, key=lambda finding: finding.severity != "problem")


_USES = {"validation": "validation", "eval": "evaluation"}


def add_texts_by_models(splits: Mapping[str, Mapping[str, Any]], result: Findings) -> None:
    """Adds what there is to say about texts that a model wrote instead of a person.

    Args:
        splits: What is known of each split, with the number of its `samples` and of those that a model labelled,
            `by_model`.
        result: Findings to add to.
    """
    written = {name: split["by_model"] for name, split in splits.items() if split["by_model"]}
    learnt = written.pop("train", 0)
    if written:
        counts = " and ".join(f"{counted(count, 'image')} for {_USES[split]}" for split, count in written.items())
        result.problem(
            "measured_on_a_model",
            f"A model wrote the texts of {counts} (column labelling_model, in logs model_version): how far a model is "
            "from people's texts cannot be measured on those of another.",
            "Keep such rows in the split train, as htr label writes them, or correct them and empty that column.",
        )
    if learnt:
        images = counted(splits["train"]["samples"], "training image")
        columns = "column labelling_model, in logs model_version"
        result.note("texts_by_a_model", f"A model wrote the texts of {learnt} of {images} ({columns}).")
