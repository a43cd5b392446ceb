"""What was probably meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Words to append to an error, such as `; did you mean serve?`; empty where nothing known resembles the word."""
    by_lowered = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lowered, n=1)
    return f"; did you mean {by_lowered[found[0]]}?" if found else ""


def setting_meant(name: str, sections: dict[str, Iterable[str]]) -> str:
    """As `did_you_mean`, for a setting that does not exist.

    Args:
        name: Dotted name such as `train.epocs`, or a word without a section.
        sections: Names of the settings by section; those that belong to none under an empty name.
    """
    *section, setting = name.split(".")
    homes = [f"{home}.{setting}" for home, settings in sections.items() if home and setting in settings]
    if homes:  # a right name in the wrong section, or without one
        return f"; did you mean {' or '.join(homes)}?"
    if section and section[0] in sections:
        near = did_you_mean(setting, sections[section[0]])
        return near.replace("mean ", f"mean {section[0]}.")
    dotted = [f"{home}.{other}" if home else other for home, settings in sections.items() for other in settings]
    return did_you_mean(name, [home for home in sections if home] + dotted)
