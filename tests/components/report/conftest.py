"""A report with all that one can have, and its page."""

import json

import pytest

from components.report import analysis, contents
from components.report.html import page as write_page
from pipeline.config import Config
from tests.components.report.report_material import STEPS, material, table, words
from tests.conftest import drawn_image, encode


@pytest.fixture(scope="session")
def built():
    predictions = table(words(500), rate=0.05, baseline_rate=0.06)
    predictions.loc[3, "text"] = "<script>alert(1)</script>"
    predictions.loc[3, "prediction"] = "<script>alert(1)</script>" + " and a long text that has to be broken" * 3
    predictions = analysis.count_edits(predictions.drop(columns=list(analysis.COUNT_COLUMNS)), compared=True)
    config = Config(gate={"max_cer": 0.3})
    return contents.build(material(predictions, config, augmented=encode(drawn_image(300, 80))))


@pytest.fixture(scope="session")
def page(built):
    # The way through JSON is the way that `htr report` goes.
    return write_page(json.loads(json.dumps(built)), steps=STEPS, pushed=(17, "models/htr/17"))
