"""What a person should know first, in words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """Something that was noticed.

    Attributes:
        kind: one of a few words, for tests and tools.
        severity: "problem": figures or data are wrong; "note": worth a look.
        text: what was found.
        advice: what to do; may be empty.
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


def some(names: list[str], most: int = 5) -> str:
    """The first few of some names, and how many there are besides."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
