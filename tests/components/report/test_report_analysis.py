"""What the report says about a model: errors, characters, slices, confidence, and the problems that it names."""

import json
import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.metrics import count_errors
from components.common.writers import without_writers
from components.evaluator.verdict import Failure
from components.report import analysis, card, contents, recogniser_runs
from pipeline.config import Config
from tests.components.report.report_material import material, split_of, table, without_plots, words

TEXTS = st.text("abé ", max_size=8)


def findings(made):
    return {finding["kind"]: finding for finding in without_plots(made)["findings"]}


def swapped(texts, share, seed=5):
    """The texts with a share of them given to each other's places."""
    source, labels = random.Random(seed), list(texts)
    places = source.sample(range(len(texts)), int(share * len(texts)))
    for here, there in zip(places, places[1:] + places[:1], strict=True):
        labels[here] = texts[there]
    return labels


@given(TEXTS, TEXTS)
def test_edit_steps_lead_from_truth_to_prediction_in_as_many_steps_as_are_counted(truth, prediction):
    steps = analysis.edit_steps(truth, prediction)
    assert "".join(old for _, old, _ in steps) == truth and "".join(new for _, _, new in steps) == prediction
    assert sum(kind != "equal" for kind, *_ in steps) == count_errors([truth], [prediction]).edits
    for kind, old, new in steps:
        assert kind == ("equal" if old == new else "replace" if old and new else "delete" if old else "insert")


def test_characters_are_counted_by_what_happened_to_them():
    predictions = table(["anna", "otto", "hanna"], rate=0)
    predictions["prediction"] = ["onna", "ott", "hannah"]
    found = analysis.Characters.of(predictions)
    assert found.replaced == Counter({("a", "o"): 1})
    assert (found.deleted, found.inserted) == (Counter("o"), Counter("h"))
    assert (found.seen["a"], found.right["a"]) == (4, 3)
    names, counts = found.matrix()
    assert names == ["a", "o"]
    assert counts.tolist() == [[3, 1, 0], [0, 1, 1]]


def test_rates_are_those_of_the_one_implementation_and_survive_the_file(tmp_path):
    predictions = table([*words(300), "007", "NA", "a,b"], rate=0.1, baseline_rate=0.2)
    predictions.loc[0, "writer"] = "Anna\rBerg"
    (tmp_path / "predictions.csv").write_text(analysis.as_csv(predictions), encoding="utf-8", newline="")
    again = analysis.read_csv(str(tmp_path / "predictions.csv"))
    for column in analysis.TEXT_COLUMNS:
        assert list(again[column]) == list(predictions[column])
    for unit in ("character", "word"):
        counts = count_errors(predictions["text"], predictions["prediction"], unit)
        for read in (predictions, again):
            assert analysis.errors_of(read, unit).pairs == counts.pairs
    before = count_errors(predictions["text"], predictions["baseline"])
    assert analysis.errors_of(again, baseline=True).pairs == before.pairs
    assert analysis.paired_errors(again).difference == pytest.approx(
        analysis.errors_of(again).rate - before.rate, abs=1e-12
    )


def test_without_a_model_before_nothing_is_compared():
    assert analysis.paired_errors(table(words(20))) is None


def test_slices_find_the_hard_writer_and_cover_every_image():
    predictions = table(words(800), rate=0.02)
    hard = predictions["writer"] == "w3"
    predictions.loc[hard, "prediction"] = ["x" + text[:-1] for text in predictions.loc[hard, "text"]]
    predictions = analysis.count_edits(predictions.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    groups = {group["name"]: group["rows"] for group in analysis.slices(predictions, 0.95)}
    assert groups["writer"][0]["value"] == "w3" and groups["writer"][0]["worse"]
    assert not any(row["worse"] for row in groups["writer"][1:])
    for name, rows in groups.items():
        assert sum(row["samples"] for row in rows) == len(predictions), name
        assert sum(row["edits"] for row in rows) == predictions["edits"].sum()
    assert "source" not in groups  # only one
    even = [row for group in analysis.slices(table(words(800), rate=0.05), 0.95) for row in group["rows"]]
    assert len(even) > 20 and sum(row["worse"] for row in even) <= 2  # by chance


def test_the_slice_that_costs_most_stands_first():
    """Not the largest one, which is as good as all are, nor the worst one, which is small."""
    writers = {"usual": (400, 0.1), "worst": (5, 1.0), "costly": (100, 0.3)}
    predictions = table(["a" * 10] * 505, rate=0).drop(columns=list(analysis.COUNT_COLUMNS))
    predictions["writer"] = [name for name, (images, _) in writers.items() for _ in range(images)]
    wrong = [int(10 * writers[name][1]) for name in predictions["writer"]]
    predictions["prediction"] = ["b" * number + "a" * (10 - number) for number in wrong]
    found = analysis.slices(analysis.count_edits(predictions, compared=False), 0.95)
    (rows,) = [group["rows"] for group in found if group["name"] == "writer"]
    assert [row["value"] for row in rows] == ["costly", "worst", "usual"]


def test_calibration_sees_confidence_that_is_too_high():
    source = np.random.default_rng(0)
    predictions = table(words(3000), rate=0)
    confidence = source.uniform(0.2, 1, len(predictions))
    right = source.random(len(predictions)) < confidence
    predictions["edits"] = np.where(right, 0, 1)
    honest = analysis.calibration(predictions.assign(confidence=confidence))
    boastful = analysis.calibration(predictions.assign(confidence=confidence**0.3))
    assert honest["error"] < 0.05 < 0.1 < boastful["error"]
    assert boastful["gap"] > 0.1 > abs(honest["gap"])
    assert [b["samples"] for b in honest["bins"]] == [300] * 10


def test_confidence_of_a_few_images_is_not_called_off_by_chance():
    source = np.random.default_rng(0)
    found = []
    for images in (20, 20, 20, 20, 20, 20, 90, 150):
        predictions = table(words(images), rate=0)
        confidence = source.uniform(0.2, 1, images)
        right = source.random(images) < confidence
        predictions = predictions.assign(confidence=confidence, edits=np.where(right, 0, 1))
        calibration = analysis.calibration(predictions)
        assert (calibration["error"] is None) == (images < 100)
        assert all(row["samples"] >= 30 for row in calibration["bins"]) or images == 20
        found.append("calibration" in findings(material(predictions)))
    assert sum(found) <= 1
    boastful = table(words(400), rate=0.3).assign(confidence=0.9)
    assert "calibration" in findings(material(boastful))


def test_slices_of_a_few_images_are_not_called_worse():
    predictions = table(words(400), rate=0, writers=400)
    predictions.loc[0, "prediction"] = "x"
    predictions = analysis.count_edits(predictions.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    (writers,) = [group for group in analysis.slices(predictions, 0.95) if group["name"] == "writer"]
    assert writers["rows"][0]["low"] > 0 and not any(row["worse"] for row in writers["rows"])


def test_review_removes_the_least_confident_first():
    predictions = table(words(1000), rate=0.05)
    rows = analysis.review(predictions)
    assert rows[0]["cer"] == analysis.errors_of(predictions).rate
    accepted = predictions[predictions["confidence"] >= rows[4]["threshold"]]
    assert rows[4]["share"] == 0.2 and rows[4]["sent"] == pytest.approx(0.2) and len(accepted) == 800
    assert rows[4]["cer"] == analysis.errors_of(accepted).rate < rows[0]["cer"]


@pytest.mark.parametrize(("images", "empty"), [(4, 0), (24, 0), (200, 60), (200, 3)])
def test_review_has_a_row_where_a_threshold_sends_images_and_measures_what_it_keeps(images, empty):
    predictions = table(words(images), rate=0.3)
    predictions.loc[: empty - 1, "confidence"] = 0.0  # as of images without ink
    rows = analysis.review(predictions)
    assert rows[0]["sent"] == 0
    for row in rows:
        kept = predictions[predictions["confidence"] >= row["threshold"]]
        assert row["cer"] == analysis.errors_of(kept).rate
        assert row["sent"] == pytest.approx(1 - len(kept) / images) and (row["sent"] > 0) == (row["share"] > 0)
    assert [row["share"] for row in rows if row["share"] < 0.3] == {4: [0, 0.2], 24: [0, 0.05, 0.1, 0.2]}.get(
        images, [0] if empty == 60 else [0, 0.02, 0.05, 0.1, 0.2]
    )
    card.write(contents.build(material(predictions)))


def test_review_has_one_row_for_what_one_threshold_sends():
    predictions = table(words(100), rate=0.3)
    predictions["confidence"] = [0.1] * 10 + [0.9] * 90
    assert [(row["share"], row["sent"]) for row in analysis.review(predictions)] == [(0, 0), (0.1, pytest.approx(0.1))]


def test_report_names_swapped_labels():
    texts = words(600)
    clean = findings(material(table(texts)))
    assert "suspicious_labels" not in clean
    predictions = table(texts, labels=swapped(texts, 0.1))
    found = findings(material(predictions))["suspicious_labels"]
    assert found["severity"] == "problem" and "exactly the label of another image" in found["text"]
    suspect = analysis.suspect_labels(predictions)
    wrong = [i for i, (a, b) in enumerate(zip(texts, predictions["text"], strict=True)) if a != b]
    assert set(suspect.index) <= set(wrong) and len(suspect) > 0.6 * len(wrong)


def test_report_names_leaked_writers_and_images():
    predictions = table(words(400), writers=8)
    leaking = split_of(words(500), ["w2", "t1"] * 250, {b"1": ("x", "data/9.png")})
    chosen_by = split_of(words(50), ["w3"] * 50, {b"2": ("y", "data/8.png")})
    images = {b"1": ("x", "data/5.png"), b"2": ("y", "data/6.png")}
    evaluated = split_of(list(predictions["text"]), list(predictions["writer"]), images)
    found = findings(material(predictions, splits={"train": leaking, "validation": chosen_by, "eval": evaluated}))
    assert "w2, w3 (100 of 400" in found["leaked_writers"]["text"] and found["leaked_writers"]["severity"] == "problem"
    assert all(image in found["leaked_images"]["text"] for image in ("data/5.png", "data/6.png"))
    clean = findings(material(predictions))
    assert not {"leaked_writers", "leaked_images"} & set(clean)


@pytest.mark.parametrize(("rejected", "told"), [(30, False), (200, True)])
def test_report_names_anomalies_and_many_rejected_rows(rejected, told):
    counts = {"accepted": {"train": 2000, "validation": 50, "eval": 50}, "rejected": {"empty_label": rejected},
              "notes": []}  # fmt: skip
    anomalies = [("ERROR", "text is empty"), ("WARNING", "width drifts")]
    found = without_plots(material(table(words(50)), counts=counts, anomalies=anomalies))["findings"]
    assert ("rejected" in {finding["kind"] for finding in found}) == told
    assert [(finding["severity"], finding["text"]) for finding in found if finding["kind"] == "anomaly"] == [
        ("problem", "Data statistics: text is empty."), ("note", "Data statistics: width drifts."),
    ]  # fmt: skip


def test_no_writer_is_named_by_what_goes_along_with_a_version():
    predictions = table(words(400), rate=0.02)
    predictions["writer"] = [f"Anna Meier {name}" for name in predictions["writer"]]
    weak = predictions["writer"] == predictions["writer"][0]
    predictions.loc[weak, "prediction"] = ["q" + text[1:] for text in predictions.loc[weak, "text"]]
    predictions = analysis.count_edits(predictions.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    evaluated = split_of(list(predictions["text"]), list(predictions["writer"]))
    splits = {"train": split_of(words(500), ["Anna Meier w2"] * 500), "validation": split_of([], []), "eval": evaluated}
    bounds = {"writer": 0.5, "writer=Anna Meier w1": 0.2, "length_band": 0.4}
    counts = {"accepted": {"train": 500, "validation": 0, "eval": 400}, "rejected": {},
              "notes": ["No image is left for eval; taken instead: writer Anna Meier w1 for eval."]}  # fmt: skip
    config = Config(data={"paths": ["names"]}, gate={"slice_max_cer": bounds})
    made = material(predictions, config, splits, counts=counts)
    rows = {"cer": 0.1, "samples": 50.0}
    made.verdict.slices.update({f"writer = {made.predictions['writer'][0]}": rows, "length_band = <=04": rows})
    built = without_plots(made)
    assert {"leaked_writers", "weak_writer"} <= {finding["kind"] for finding in built["findings"]}
    metrics = without_writers(contents.metrics(built))
    assert metrics["slices"] == {"length_band = <=04": rows} and metrics["findings"]
    assert metrics["config"]["gate"]["slice_max_cer"] == {"writer": 0.5, "length_band": 0.4}
    assert [(row["bound"], row["value"]) for row in metrics["bounds"][2:]] == [(0.4, 0.1), (0.5, 0.1), (0.2, None)]
    assert "Anna Meier" not in json.dumps(metrics) + card.write(built)
    assert "Anna Meier" in json.dumps(contents.metrics(built))


def test_report_names_new_characters():
    predictions = table([*words(400), "Łódź", "Łuk"], rate=0)
    alphabet = "".join(sorted(set("".join(words(400)))))
    found = findings(material(predictions, alphabet=alphabet))["new_characters"]
    assert found["severity"] == "problem" and "Ł (2)" in found["text"]
    assert "new_characters" not in findings(material(table(words(400))))


def test_report_and_card_name_what_the_start_knew():
    made = material(table([*words(400), "Qe"], rate=0))
    in_labels = sorted({*"".join(words(400)), "Q"})
    settings = {**made.settings, "start": {"name": "a base", "base_model": True, "alphabet": [*in_labels, "7", "é"]}}
    built = contents.build(material(table([*words(400), "Qe"], rate=0), alphabet=[*in_labels, "7"], settings=settings))
    coverage = built["coverage"]
    assert coverage["kept"] == ["7"] and coverage["dropped"] == ["é"] and coverage["rare"] == {}
    written = card.write(built)
    assert "1 of them are in no training label" in written and "this one cannot: `é`" in written
    alone = contents.build(material(table(words(400)), alphabet=[*in_labels, "7"]))
    assert "7" in alone["coverage"]["rare"] and "no training label" not in card.write(alone)


def test_report_names_a_weak_slice_and_a_disagreement_with_the_evaluator():
    predictions = table(words(400), rate=0.02)
    weak = predictions["sharpness"] < 0.11
    predictions.loc[weak, "prediction"] = ["q" + text[1:] for text in predictions.loc[weak, "text"]]
    predictions = analysis.count_edits(predictions.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    made = material(predictions)
    assert "Sharpness" in findings(made)["weak_slice"]["text"]
    assert "disagreement" not in findings(made)
    made.verdict.metrics["cer"] += 1e-9
    assert "disagreement" in findings(made)


def test_report_shows_the_settings_that_the_tuner_chose():
    made = material(table(words(50)))
    train = {**made.settings["train"], "learning_rate": 0.5}
    tuned = without_plots(material(table(words(50)), settings={**made.settings, "train": train}))
    assert tuned["config"]["train"]["learning_rate"] == 0.5
    assert contents.metrics(tuned)["config"]["tune"] == made.config.tune.model_dump()


def test_bounds_are_told_with_what_was_measured():
    predictions = table(words(400), rate=0.05, baseline_rate=0.02)
    config = Config(gate={"max_cer": 0.2, "slice_max_cer": {"writer": 0.01, "writer=w1": 0.5}})
    made = material(predictions, config)
    made.verdict.slices.update({"writer = w1": {"cer": 0.04}, "writer = w2": {"cer": 0.06}})
    made.verdict.failures.append(Failure("cer", "writer = w2", 0.06, 0.01, "bound"))
    rows = contents.bounds(made.verdict, config)
    assert [row["met"] for row in rows] == [True, True, False, True]
    assert rows[0]["value"] == made.verdict.metrics["cer_high"]
    assert rows[1]["value"] == made.verdict.metrics["cer"] - made.verdict.baseline["cer"]
    assert rows[2]["value"] == 0.06 and "w2" in rows[2]["what"]
    made.verdict.failures.append(Failure("cer_high", "all", 0.3, 0.2, "bound"))
    assert [row["met"] for row in contents.bounds(made.verdict, config)] == [False, True, False, True]
    both = Config(gate={"max_cer": 0.2, "slice_max_cer": {"writer": 0.3, "writer=w2": 0.01}})
    assert [row["met"] for row in contents.bounds(made.verdict, both)[2:]] == [True, False], "of one slice"
    missing = Config(gate={"max_cer": 0.2, "slice_max_cer": {"writer=nobody": 0.5}})
    made.verdict.failures.append(Failure("samples", "writer = nobody", 0.0, 1.0, "missing"))
    row = contents.bounds(made.verdict, missing)[2]
    assert (row["met"], row["value"], row["bound"]) == (False, None, 0.5)
    assert "no image" in str(made.verdict.failures[-1])
    alone = contents.bounds(material(table(words(50))).verdict, Config())
    assert alone[1]["met"] is None and alone[1]["value"] is None


def test_the_better_run_is_named():
    worse, better = table(words(300), rate=0.4), table(words(300), rate=0.05)
    assert "Is B better? Yes:" in recogniser_runs.verdict([worse, better], 0.95)
    assert "Is B better? No, it is worse:" in recogniser_runs.verdict([better, worse], 0.95)


def test_slices_of_one_image_do_not_change():
    before = table(words(60), rate=0.0, writers=60)
    before.loc[0, "prediction"] = ""
    before = analysis.count_edits(before.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    text = recogniser_runs.verdict([before, table(words(60), rate=0.0, writers=60)], 0.95)
    assert "That cannot be told from chance" in text and "Slices that changed" not in text


def test_of_many_slices_those_that_differ_by_chance_did_not_change():
    texts = words(1500)
    for seed in range(6):
        runs = [table(texts, rate=0.1, writers=60, seed=2 * seed + model) for model in (0, 1)]
        assert "Slices that changed" not in recogniser_runs.verdict(runs, 0.95)
    better, worse = (table(texts, rate=0.1, writers=60, seed=seed) for seed in (0, 1))
    one = worse["writer"] == worse["writer"][0]
    worse.loc[one, "prediction"] = ""
    worse = analysis.count_edits(worse.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    assert f"{worse['writer'][0]} " in recogniser_runs.verdict([better, worse], 0.95).split("Slices that changed")[1]


def test_among_a_thousand_writers_a_band_that_is_worse_has_changed():
    better = table(["a", "somewhat longer words"] * 1100, rate=0.0, writers=1100)
    worse = better.copy()
    long = worse["text"].str.len() > 1
    worse.loc[long, "prediction"] = worse.loc[long, "text"].str[:-2]
    worse = analysis.count_edits(worse.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    changed = recogniser_runs.verdict([better, worse], 0.95).split("Slices that changed")[1].split("\n\n")[0]
    assert "length of the text (characters) \u2264 21" in changed and "writer" not in changed


def test_runs_of_a_data_folder_that_was_renamed_are_compared():
    predictions = table(words(100), rate=0.1)
    renamed = predictions.assign(source="names-v2", id=predictions["id"].str.replace("data/", "names-v2/", regex=False))
    assert "on the same 100 images" in recogniser_runs.verdict([predictions, renamed], 0.95)
    others = predictions.assign(id=predictions["id"] + "x")
    assert "evaluated on different images" in recogniser_runs.verdict([predictions, others], 0.95)


def test_equal_rows_are_compared_once_each():
    better, worse = table(words(100), rate=0.0), table(words(100), rate=0.0)
    repeated = [0] * 10
    better, worse = (pd.concat([t.iloc[repeated], t.iloc[1:]], ignore_index=True) for t in (better, worse))
    worse.loc[:9, "prediction"] = ""
    worse = analysis.count_edits(worse.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    text = recogniser_runs.verdict([better, worse], 0.95)
    assert "on the same 109 images" in text and "10 worse" in text


def test_texts_of_two_runs_stand_below_each_other():
    """A row with three texts of lines would be several times as wide as a terminal."""
    better, worse = table(["a line of a letter"] * 60, rate=0.0), table(["a line of a letter"] * 60, rate=0.0)
    worse.loc[7, "prediction"] = "a lime of a letter"
    worse = analysis.count_edits(worse.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)
    _, shown = recogniser_runs.verdict([better, worse], 0.95).split("Transcribed worse by B, most edits first\n")
    assert shown.splitlines() == [
        "data/7.png", "  label  a line of a letter", "  A      a line of a letter", "  B      a lime of a letter",
    ]  # fmt: skip
