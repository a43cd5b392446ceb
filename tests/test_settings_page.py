"""docs/settings.md is what the models of the configuration say."""

from docs import settings_page
from pipeline.config import SETTINGS


def test_the_page_is_up_to_date():
    written = settings_page.PAGE.read_text(encoding="utf-8")
    assert written == settings_page.as_page(), "run python -m docs.settings_page"


def test_the_page_has_every_setting():
    rows = [line.split("|")[1:-1] for line in settings_page.as_page().splitlines() if line.startswith("| `")]
    assert {f"`{section}.{name}`" for section, names in SETTINGS.items() for name in names} <= {
        row[0].strip() for row in rows
    }
    values = {row[0].strip(" `"): row[2].strip() for row in rows}
    assert values["gate.max_cer"] == "fraction, below 1, or null"
    assert values["transform.width"] == "whole number, at least 32, at most 8192, a multiple of 4, or null"
    assert values["data.eval_fraction"] == "fraction, above 0, below 0.5"
    assert values["train.freeze"] == "list: `convolutions`, `recurrent`"
