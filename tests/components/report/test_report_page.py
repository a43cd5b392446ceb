"""The report as a page: complete, self-contained, and true."""

import dataclasses
import html as markup
import json
import re
from pathlib import Path

import pytest

from components.evaluator.verdict import Baseline
from components.report import analysis, card, contents, figures
from components.report.html import page as write_page
from components.report.numbers import percent
from components.report.summary import RunSummary, Step
from pipeline.config import Config
from pipeline.tasks.text import Text
from tests.components.report.report_material import FIGURES, in_words, material, split_of, table, words

pytestmark = pytest.mark.either_stack


def test_page_answers_the_questions(page, built):
    metrics = built["verdict"]["metrics"]
    for text in (
        "Blessed: this model may ship.", "Pushed as version 17", percent(metrics["cer"]),
        percent(metrics["cer_high"]), "What the gate asked", "gate.max_cer_increase",
        "Better than version 17 (in service)?", "randomisation test", "Where it fails", "Worst", "Typical errors",
        "Most frequent confusions", "Missed and added", "Alphabet", "By writer", "By sharpness", "Reliability",
        "expected calibration error", "With a person for the least confident", "validation CER", "Rejected rows",
        "empty label", "the label is empty", "Trainer", "1.00 GiB", "Configuration", "learning_rate", "tensorflow",
        "0123456789ab", "Run of 2026-01-02T03:04:05", "What the network saw in training",
    ):  # fmt: skip
        assert text in page, text


def test_page_needs_no_other_file_and_no_script(page):
    assert not re.search(r"<(script|link|iframe)\b", page)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "&lt;script&gt;alert" in page


def test_ids_of_the_figures_do_not_collide(page):
    assert page.count('<svg class="plot') == len(FIGURES)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) <= set(ids)


def test_page_of_a_model_that_must_not_ship_says_so():
    made = material(table(words(200), rate=0.3), Config(gate={"max_cer": 0.05}))
    html = write_page(in_words(made))
    assert "Not blessed: this model must not ship." in html and "missed" in html
    assert "Compared with nothing (none yet)" in html and 'id="steps"' not in html
    assert "What to try" in html


FACTS = {
    "order": 5, "least_labels": 2, "texts": 2000, "texts_left_out": 0, "ngrams": 4321, "bytes": 9000, "weight": 0.4,
    "validation_images": 50, "validation_cer_best_path": 0.09, "validation_cer": 0.05, "temperature": 1.2,
}  # fmt: skip


def with_language_model(facts, decoder="default", start=None, **language):
    """Contents of a report whose model reads better with its language model than by the best path."""
    predictions = table(words(500), rate=0.03, best_path_rate=0.09)
    if decoder == "best_path":
        predictions[["prediction", "edits"]] = predictions[["best_path", "best_path_edits"]]
    made = material(predictions, Config(gate={"max_cer": 0.3, "decoder": decoder}, language=language))
    metrics = {**made.verdict.metrics, "cer_default": 0.0312, "cer_best_path": 0.0923}
    verdict = dataclasses.replace(made.verdict, metrics=metrics)
    settings = {**made.settings, "language_model": facts, "start": start or {"name": "nothing"}}
    return in_words(dataclasses.replace(made, verdict=verdict, settings=settings))


def test_page_and_card_tell_what_the_language_model_brings_and_gives_away():
    built = with_language_model(FACTS)
    html, text = write_page(json.loads(json.dumps(built))), card.write(built)
    found = built["language_model"]
    assert (
        found["high"] < 0 and found["better"] > found["worse"] and (found["with"], found["without"]) == (0.0312, 0.0923)
    )
    for told in (
        "4,321 character n-grams of 2,000 labels and texts,",
        "3.12 %",
        "9.23 %",
        f"Images transcribed better: {found['better']}",
        "Weight 0.4",
    ):
        assert told in html, told
    assert "chosen on 50 validation images" in html and "the base model's: 50" not in html
    assert "the base model's: 50 validation images are too few" in write_page(
        with_language_model({**FACTS, "trusts_base": True})
    )
    assert "with the version's language model" in text and "9.23 %" in text
    assert "All figures of the evaluation images here are those with it" in html
    assert "have a validation CER of the best path of 5.00 %" in html
    assert "a name that stands in several labels can be put together" in text and "`language.enabled=false`" in text
    assert json.loads(json.dumps(contents.metrics(built)))["language_model"]["weight"] == 0.4


@pytest.mark.parametrize(
    ("root", "base_texts", "told"), [("word", True, True), ("word", False, False), ("line", True, False)]
)
def test_the_card_names_the_texts_of_the_base_model_also_where_a_version_goes_back_to_it(root, base_texts, told):
    start = {"name": "models/17", "base_model": False, "root_base": root}
    text = card.write(with_language_model(FACTS, start=start, base_texts=base_texts))
    assert ("training labels, and the texts of the base model, which are public." in text) == told


@pytest.mark.parametrize("extra", ["", "`"])
def test_characters_of_the_card_are_code_also_where_one_is_a_backtick(extra):
    predictions = table(words(200))
    alphabet = "".join(sorted({*"".join(predictions["text"]), *"".join(predictions["prediction"]), *extra}))
    text = card.write(contents.build(material(predictions, alphabet=alphabet)))
    (line,) = (line for line in text.splitlines() if line.startswith("* It writes these"))
    fence = "``" if extra else "`"
    shown = re.escape(alphabet)
    assert re.search(f"others: {fence} ?{shown} ?{fence}$", line), line


def test_marks_stay_on_their_letters_where_texts_differ():
    label, read = "x\u0323ry\u0332r", "xry\u0332t"  # NFC composes none of them
    predictions = table([read, *words(200)], [label, *words(200)], rate=0)
    html = write_page(contents.build(material(predictions)))
    assert (
        f'>label</dt><dd class="text"><span class="delete">{label[:2]}</span>{label[2:5]}<span class="replace">' in html
    )
    assert f'<dd class="text">x<span class="delete">&#8203;·</span>{read[1:4]}<span class="replace">t<' in html


def test_thousands_of_characters_are_not_listed_each():
    predictions = table(words(200))
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    predictions["text"] = predictions["text"] + [chr(0xAC00 + i) for i in range(2000)][: len(predictions)]
    predictions.loc[0, "text"] += "".join(map(chr, range(0xB000, 0xB000 + 300)))
    built = contents.build(material(predictions, alphabet=alphabet))
    assert max(map(len, card.write(built).splitlines())) < 3000 and "and 2500 more" in card.write(built)
    html = write_page(built)
    assert "and 2800 more" in html and re.search(r"Unknown: .*</span> and 3\d\d more</p>", html)


def test_page_and_card_of_a_gate_that_evaluates_the_best_path():
    built = with_language_model(FACTS, "best_path")
    html, text = write_page(built), card.write(built)
    assert "difference" not in built["language_model"]  # the texts that it gives are not in the table
    assert "are those of the best path" in html and "of the best path" in text and "3.12 %" in text


def test_page_and_card_without_a_language_model():
    html, text = (make(with_language_model({**FACTS, "weight": 0.0, "bytes": 0})) for make in (write_page, card.write))
    assert "on 50 validation images none helped by more than chance" in html and "## Language model" not in text
    left_out = in_words(material(table(words(200)), Config()))
    assert left_out["language_model"] is None and "Language model" not in write_page(left_out) + card.write(left_out)


def test_page_and_card_say_what_the_gate_did_not_ask():
    made = in_words(material(table(words(200)), Config(gate={"max_cer": None})))
    html, text = write_page(made), card.write(made)
    assert "<b>Off:</b> gate.max_cer. " in html and "model. Switched off: `gate.max_cer`." in text
    other = in_words(material(table(words(200)), Config(gate={"max_cer": 0.4, "max_cer_increase": None})))
    assert contents.metrics(other)["off"] == ["gate.max_cer_increase"]
    assert "is at most 40.00 % (`gate.max_cer`). Switched off: `gate.max_cer_increase`." in card.write(other)
    config = Config(gate={"baseline": "none", "baseline_reason": "another alphabet"})
    verdict = dataclasses.replace(
        material(table(words(200))).verdict, compared_with=Baseline("off", reason="another alphabet")
    )
    made = in_words(material(table(words(200)), config, verdict=verdict))
    for made_of in (write_page(made), card.write(made), json.dumps(contents.metrics(made))):
        assert "another alphabet" in made_of


def test_bounds_have_units_and_the_first_line_reads_well(page):
    assert "+0.50 points" in page
    assert " (digest 0123456789ab). Model htr, made with Python" in page


def test_contents_that_0_1_0_wrote_make_a_page():
    made = json.loads(Path(__file__).with_name("contents-0.1.0.json").read_text(encoding="utf-8"))
    told = write_page(made)
    shown = made["data"]["rejected"][1]["examples"][0]
    assert f'<img src="{shown["picture"]}"' in told and f"row {shown['row']}: the label is empty" in told
    assert "Suspect labels" not in told and "It cannot be told from chance" in told
    made["comparison"].update(low=-0.03, high=-0.01, p_value=0.001)
    made["cases"]["doubtful"] = made["cases"]["worst"]
    told = write_page(made)
    assert "Better than the model before?</h3>\n<p><b>Yes.</b>" in told and "Suspect labels" in told


def test_contents_of_a_checkout_after_0_1_0_make_a_page(built):
    made = json.loads(json.dumps(built))
    del made["against"], made["verdict"]["compared_with"]
    made["verdict"]["off"] = []
    assert "Better than the model before?" in write_page(made)


def test_page_tells_what_a_warm_start_has_brought():
    history = [{"epoch": 0, "loss": None, "validation_cer": 0.06, "seconds": 1.0},
               *({"epoch": i, "loss": 2.0, "validation_cer": 0.9, "seconds": 10.0 * i} for i in (1, 2))]  # fmt: skip
    settings = material(table(words(50))).settings
    facts = {"base_validation_cer": 0.06, "best_epoch": 0, "collapse": None}
    made = contents.build(
        material(
            table(words(50)), history=history, settings={**settings, "best_validation_cer": 0.06, "training": facts}
        )
    )
    assert "base_kept" in {finding["kind"] for finding in made["findings"]}
    json.dumps(contents.metrics(made), allow_nan=False)
    told = write_page(json.loads(json.dumps(made)))
    assert "CER over 2 epochs" in told and "2 epochs in 20 s" in told
    assert "The model that training started from has 6.00 % there" in told


@pytest.mark.parametrize(
    ("trained", "told"), [(0.06, " (6.00 % before the start's other characters were added)"), (0.05, "")]
)
def test_page_tells_the_validation_cer_of_the_network_that_ships(trained, told):
    settings = material(table(words(50))).settings
    facts = {**settings["training"], "best_validation_cer": trained}
    html = write_page(in_words(material(table(words(50)), settings={**settings, "training": facts})))
    assert f"The weights that were kept have a validation CER of 5.00 %{told}." in markup.unescape(html)


def test_what_the_training_kept_is_told_and_not_found_out_anew():
    # The last epoch was kept since it is not clearly worse than the lowest; for want of patience the training ended.
    cers = (0.3, 0.2, 0.11, 0.1, 0.13, 0.12)
    history = [{"epoch": i, "loss": 2.0, "validation_cer": cer, "seconds": 9.0 * i} for i, cer in enumerate(cers, 1)]
    settings = material(table(words(50))).settings
    for kept, falling in ((6, False), (4, True)):
        facts = {"best_epoch": kept, "still_falling": falling, "collapse": None}
        run = material(table(words(50)), history=history, settings={**settings, "training": facts})
        made = contents.build(run)
        marked = re.findall(r">(\d+\.\d\d) %<", made["figures"]["curves"])
        assert marked == [f"{100 * cers[kept - 1]:.2f}"]
        assert ("still_learning" in {finding["kind"] for finding in made["findings"]}) == falling


def test_page_tells_of_a_collapse():
    settings = material(table(words(50))).settings
    facts = {"collapse": "the network recognises nothing: 50 of 50 validation images come out empty"}
    made = in_words(material(table(words(50)), settings={**settings, "training": facts}))
    assert "the network recognises nothing: 50 of 50 validation images come out empty" in write_page(made)


def test_what_the_data_step_has_decided_is_on_the_page():
    counts = {"accepted": {"train": 2000, "validation": 50, "eval": 200}, "rejected": {}, "split_by_writer": False,
              "notes": ["The labels name 1 writer: images are split one by one."],
              "problems": ["Rows whose labels are written from right to left: 3 (Hebrew 3)."]}  # fmt: skip
    predictions = table(words(200), writers=1)
    splits = {"train": split_of(words(2000), ["w0"] * 2000), "eval": split_of(list(predictions["text"]), ["w0"] * 200)}
    made = in_words(material(predictions, counts=counts, splits=splits))
    html, kinds = write_page(made), {finding["kind"] for finding in made["findings"]}
    assert "written from right to left: 3 (Hebrew 3)" in html and "images are split one by one" in html
    assert "data" in kinds and "leaked_writers" not in kinds
    told = "200 of 200 evaluation images are by writers of training images (w0). The error on unseen writers is higher"
    text = card.write(made)
    assert told in html and "w0" not in text
    assert "On 200 images that training did not see; 1 of their 1 writers also wrote training images:" in text
    assert "by 8 writers that training did not see:" in card.write(in_words(material(table(words(200)))))
    together = in_words(material(predictions, splits=splits))
    assert "leaked_writers" in {finding["kind"] for finding in together["findings"]}


def test_page_and_card_count_images_of_unknown_writers_apart():
    predictions = table(words(200))
    predictions.loc[predictions["writer"] == "w0", "writer"] = ""
    made = in_words(material(predictions))
    text = card.write(made)
    told = "On 200 images that training did not see, 175 by 7 writers and 25 by unknown ones, whose writing it may have"
    assert told in text and "over the images of these 7 writers and of unknown ones" in text
    assert "by 7 writers and unknown ones" in write_page(made)
    nobody = card.write(in_words(material(predictions.assign(writer=""))))
    assert "On 200 images that training did not see:" in nobody


def test_page_card_and_run_say_that_the_start_has_learnt_from_evaluation_images():
    predictions = table(words(200), baseline_rate=0.1)
    images = {bytes([i]): (text, f"data/{i}.png") for i, text in enumerate(predictions["text"])}
    splits = {
        "train": split_of(words(2000), ["t"] * 2000),
        "eval": split_of(list(predictions["text"]), list(predictions["writer"]), images),
    }
    for who, severity in (("start", "problem"), ("baseline", "note")):
        made = in_words(material(predictions, splits=splits, seen_before={"start": 0, "baseline": 0, who: 120}))
        (finding,) = [f for f in made["findings"] if f["kind"] == f"leaked_{who}"]
        told = "has learnt from 120 of the 200 evaluation images"
        assert finding["severity"] == severity and told in finding["text"] and told in write_page(made)
        sees = "On 200 images by 8 writers; the model that the training started from has learnt from 120 of these"
        assert (sees in card.write(made)) == ("that training did not see" not in card.write(made)) == (who == "start")
        run = RunSummary("2026-01-02", [], 1.0, {}, report_folder="")
        run.__dict__.update(report=made, metrics=contents.metrics(made))
        (line,) = [line for line in Text().figures(run) if told in line]
        assert line.startswith({"problem": "Warning", "note": "Note"}[severity])
    assert not [f for f in in_words(material(predictions, splits=splits))["findings"] if "leaked" in f["kind"]]


def test_run_says_that_evaluation_images_are_among_the_training_images():
    predictions = table(words(200))
    images = {b"1": ("x", "data/5.png")}
    splits = {"train": split_of(words(500), ["t"] * 500, images), "validation": split_of([], []),
              "eval": split_of(list(predictions["text"]), list(predictions["writer"]), images)}  # fmt: skip
    run = RunSummary("2026-01-02", [], 1.0, {}, report_folder="")
    made = in_words(material(predictions, splits=splits))
    run.__dict__.update(report=made, metrics=contents.metrics(made))
    (line,) = [line for line in Text().figures(run) if "also among the training images: 1" in line]
    assert line.startswith("Warning")


def test_page_and_card_say_what_a_model_has_labelled():
    counts = {"accepted": {"train": 2000, "validation": 50, "eval": 200}, "rejected": {}, "notes": [],
              "by_model": {"train": 1800}}  # fmt: skip
    made = in_words(material(table(words(200)), counts=counts))
    told = f"A model wrote the texts of 1800 of {made['data']['splits']['train']['samples']} training images"
    assert told in write_page(made) and told in card.write(made)
    counts["by_model"] = {"eval": 7}
    (finding,) = [f for f in in_words(material(table(words(200)), counts=counts))["findings"]
                  if f["kind"] == "measured_on_a_model"]  # fmt: skip
    assert finding["severity"] == "problem" and "7 images for evaluation" in finding["text"]


def test_page_and_card_of_a_few_images_tell_no_calibration_error():
    few, more = (in_words(material(table(words(count)))) for count in (60, 200))
    for write in (write_page, card.write):
        assert "on average" in write(more) and "on average" not in write(few)
    assert "Drawn from the other images with an error" in write_page(in_words(material(table(words(200), rate=0.3))))


def test_page_and_card_say_what_the_interval_is_over():
    predictions = table(words(400), rate=0.0)
    predictions.loc[predictions["writer"] == "w3", "prediction"] = ""
    predictions = analysis.count_edits(predictions.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    made = in_words(material(predictions))
    assert made["writer_range"] == (0.0, 1.0)
    unnamed = predictions.assign(writer=predictions["writer"].replace("w3", ""))
    assert in_words(material(unnamed))["writer_range"] == (0.0, 0.0), "images without a writer are not those of one"
    assert '<span class="bad" title="harder">&#9650; 100.00 %</span>' in write_page(made), "not by its colour alone"
    for text in (write_page(made), card.write(made)):
        assert "images of these 8 writers" in text and "ranges from 0.00 % to 100.00 %" in text
    assert "too few to say" in card.write(made)
    many = card.write(in_words(material(table(words(400), writers=40))))
    assert "images of these 40 writers." in many and "single writers" not in many


def test_thresholds_of_a_good_model_send_no_more_to_a_person_than_their_rows_say():
    made = in_words(material(table(words(200))))
    thresholds = {0: 0.0, 0.01: 0.000026, 0.02: 0.5, 0.05: 0.6653, 0.1: 0.9977, 0.2: 0.99994, 0.5: 1.0}
    made["review"] = [{"share": share, "sent": share, "threshold": value, "cer": 0.01, "exact": 0.9}
                      for share, value in thresholds.items()]  # fmt: skip
    rows = re.findall(r'<tr><td class="n">[\d.]+ %</td><td class="n">([\d.]+)</td>', write_page(made))
    assert rows == ["0.000026", "0.5", "0.665", "0.9977", "0.99994", "1"]
    assert "(confidence below 0.9977)" in card.write(made)


def test_page_of_a_run_that_failed_names_the_step():
    html = write_page(None, "2026-01-02T03:04:05", [Step("Transform", "FAILED", 1.0)])
    assert "The run ended at Transform" in html and "Run of 2026-01-02T03:04:05" in html


def test_page_of_a_blessed_model_that_no_run_has_pushed_says_so():
    made = in_words(material(table(words(200))))
    ended = Step("Evaluator", "COMPLETE", 1.0)
    failed, stopped, whole = (
        write_page(made, steps=[ended, *more], pushed=pushed)
        for more, pushed in (
            ([Step("ServingCheck", "FAILED", 2.0)], None), ([], None), ([Step("Pusher", "COMPLETE", 1.0)], (17, "a/17"))
        )
    )  # fmt: skip
    assert 'class="verdict no"' in failed and "not pushed: the run failed at ServingCheck." in failed
    assert 'class="verdict yes"' in stopped and "Not pushed: the run has not come to the push." in stopped
    assert 'class="verdict yes"' in whole and "ot pushed" not in whole


@pytest.mark.parametrize(("run_id", "name"), [
    ("scheduled__2026-11-29T10:00:00+00:00", "scheduled__2026-11-29T10:00:00"),
    ("0f3b2c1a-9d5e-4a7f-8c2b-1a2b3c4d5e6f", "0f3b2c1a-9d5e-4a7f-8c2b-1a2b3c4d5e6f"),
])  # fmt: skip
def test_page_and_card_name_a_run_as_the_list_of_runs_does(run_id, name):
    made = in_words(material(table(words(50)), run_id=run_id))
    assert f"<h1>Run of {name}</h1>" in write_page(made)
    assert f"Evaluated by the run of {name}. " in card.write(made), "its training may be another run's, from the cache"


def test_card_and_metrics_say_the_same_as_the_page(built):
    config = Config(card={"data_licence": "CC-BY 4.0", "contact": "desk@example.org"})
    made = in_words(material(table(words(300)), config))
    text, metrics = card.write(made), json.loads(json.dumps(contents.metrics(made), allow_nan=False))
    for part in ("CC-BY 4.0", "desk@example.org", "## Intended use", "## Limits", made["data"]["digest"],
                 percent(made["verdict"]["metrics"]["cer_high"]), made["model"]["alphabet"]):  # fmt: skip
        assert part in text, part
    assert "not stated (`card.data_licence`)" in card.write(built)
    assert metrics["metrics"] == made["verdict"]["metrics"] and metrics["blessed"] is True
    assert "\n\n\n" not in text and re.search(r"^\| character error rate \| \d", text, re.M)


def test_letters_of_a_label_are_readable_where_the_model_failed(page):
    label, recognised = (re.findall(rf'<text class="{name}"[^>]*>', page) for name in "tp")
    assert label and recognised and not any("opacity" in letter for letter in label)
    opacities = [float(found[1]) for letter in recognised if (found := re.search(r"opacity:([\d.]+)", letter))]
    assert len(opacities) == len(recognised) and min(opacities) >= 0.6


def test_the_chart_of_one_epoch_has_one_epoch():
    svg = figures.learning_curves([{"epoch": 1, "loss": 2.0, "validation_cer": 0.3, "seconds": 9.0}], 1)
    ticks = re.findall(r">([\d.]+)</text>", svg)
    assert ticks.count("1") == 2 and not any(0.5 < float(tick) < 1 for tick in ticks) and 'over 1 epoch"' in svg
