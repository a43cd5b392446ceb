"""`htr drift` names what has drifted: images, characters, rejected rows, the confidence in logged requests."""

import csv
import json
import math
import re
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta, timezone

import cv2
import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv

from components.common.settings import ConfigError
from components.example_validator import thresholds
from components.example_validator.divergence import QUANTILES, divergence, quantiles
from components.example_validator.settings import DRIFT_MEASURES
from components.tools.drift import comparison, profiles
from components.tools.log_times import parse_since
from htr_client import RequestLog
from pipeline import cli
from pipeline.config import Config, load

pytestmark = pytest.mark.either_stack


@pytest.fixture(scope="module")
def images(sample_data):
    """Good rows of the sample data: grey image and label."""
    found = []
    with open(sample_data / "written_name.csv", encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            path = sample_data / "images" / row["FILENAME"]
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.exists() else None
            if grey is not None and row["IDENTITY"] not in ("", "EMPTY", "UNREADABLE"):
                found.append((grey, row["IDENTITY"]))
    return found


def span(folder, images, change=lambda grey: grey, label=lambda text, number: text):
    """A dataset of changed images and labels."""
    folder.mkdir()
    with open(folder / "labels.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "text"])
        for number, (grey, text) in enumerate(images):
            cv2.imwrite(str(folder / f"{number}.png"), change(grey))
            writer.writerow([f"{number}.png", label(text, number)])
    return folder


def drift(before, after, *more, capsys):
    code = cli.main(["drift", "--against", str(before), "--data", str(after), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def words(found, name):
    return next(measure["text"] for measure in found["measures"] if measure["name"] == name)


@pytest.fixture(scope="module")
def halves(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("spans")
    return span(folder / "first", images[::2]), images[1::2], folder


def test_more_of_the_same_is_no_drift(halves, capsys):
    first, rest, folder = halves
    code, found = drift(first, span(folder / "same", rest), "--fail", capsys=capsys)
    (new,) = (measure for measure in found["measures"] if measure["name"] == "new_characters")
    assert new["after"] > 0, "there are new characters, by chance"
    assert code == 0 and found["drifted"] == [] and found["kind"] == "drift"


@pytest.mark.parametrize(
    ("change", "name", "sentence"),
    [
        (lambda grey: 255 - grey, "ink_share", "light on dark, as if inverted"),
        (lambda grey: cv2.GaussianBlur(grey, (0, 0), 1.5), "sharpness", "blurred"),
        (lambda grey: cv2.resize(grey, None, fx=2, fy=2), "height", "more rows or more pixels"),
        (lambda grey: (grey * 0.6).astype(np.uint8), "paper_level", "darker paper"),
    ],
    ids=["inverted", "blurred", "enlarged", "dark"],
)
def test_changed_images_are_named_and_fail_when_asked(halves, tmp_path, capsys, change, name, sentence):
    first, rest, _ = halves
    after = span(tmp_path / "after", rest, change)
    code, found = drift(first, after, capsys=capsys)
    assert code == 0 and name in found["drifted"] and sentence in words(found, name)
    code, _ = drift(first, after, "--fail", capsys=capsys)
    assert code == cli.DRIFT
    code, _ = drift(first, after, "--set=drift.fail=true", capsys=capsys)
    assert code == cli.DRIFT
    allowed = "--set=drift.thresholds={" + ", ".join(f"{measure}: 1" for measure in DRIFT_MEASURES) + "}"
    code, found = drift(first, after, "--fail", allowed, capsys=capsys)
    assert code == 0 and found["drifted"] == []


def test_rows_without_a_confidence_and_tables_without_labels_are_told(halves, tmp_path, capsys):
    first, rest, _ = halves
    after = span(tmp_path / "after", rest[:40])
    with open(after / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    odd = ("n/a", "nan", "-5", "7")
    with open(after / "labels.csv", "w", encoding="utf-8", newline="") as file:
        values = ["confidence", *(0.9 if number % 2 else odd[number % 8 // 2] for number in range(len(rows) - 1))]
        csv.writer(file).writerows([*row, value] for row, value in zip(rows, values, strict=True))
    (after / "notes.csv").write_text("who,what\nAnna,came\n", encoding="utf-8")
    assert cli.main(["drift", "--against", str(first), "--data", str(after), "--json"]) == 0
    out, err = capsys.readouterr()
    passed_over, without = json.loads(out)["notes"]
    assert f"{after}/notes.csv" in passed_over
    assert re.match(r"after: \d+ rows of \d+ have no confidence from 0 to 1, such as after/labels.csv, row 2;", without)
    assert f"note: {passed_over}" in err and f"note: {without}" in err


def test_new_character_is_named(halves, tmp_path, capsys):
    first, rest, _ = halves
    after = span(tmp_path / "after", rest, label=lambda text, number: text + "Ж" if number % 4 == 0 else text)
    _, found = drift(first, after, capsys=capsys)
    assert "new_characters" in found["drifted"] and "Ж (" in words(found, "new_characters")


@pytest.mark.parametrize(("new", "drifted"), [(4, False), (6, True)])
def test_new_characters_in_a_few_of_fifty_labels_are_chance(new, drifted):
    def profile(*labels):
        characters = Counter("".join(labels))
        return profiles.Profile(
            "", len(labels), len(labels), {}, characters, frozenset(characters), texts=Counter(map(frozenset, labels))
        )

    before, after = profile(*["a"] * 98, "b", "c"), profile(*["a"] * (50 - new), *["Ж"] * new)
    (found,) = [m for m in comparison.compare(before, after, {}).measures if m.name == "new_characters"]
    assert found.drifted == drifted


def test_rejected_rows_are_named(halves, tmp_path, capsys):
    first, rest, _ = halves
    after = span(tmp_path / "after", rest, label=lambda text, number: "" if number % 5 == 0 else text)
    _, found = drift(first, after, capsys=capsys)
    assert "rejected" in found["drifted"] and "empty_label" in words(found, "rejected")
    _, found = drift(first, after, "--set=drift.thresholds.rejected=0.9", capsys=capsys)
    assert "rejected" not in found["drifted"]
    _, found = drift(after, first, capsys=capsys)
    assert "rejected" not in found["drifted"], "fewer are no harm"
    (fewer,) = [measure for measure in found["measures"] if measure["name"] == "rejected"]
    assert fewer["distance"] == 0 and fewer["before"] > fewer["after"]


def test_logged_requests_are_skew_and_low_confidence_is_named(halves, tmp_path, capsys):
    first, rest, _ = halves
    for folder, confidence in (("sure", 0.9), ("unsure", 0.3)):
        log = RequestLog(tmp_path / folder, rate=1)
        for number, (grey, text) in enumerate(rest):
            log.offer(cv2.imencode(".png", grey)[1].tobytes(), text, confidence + 0.001 * number % 0.05, "htr", 7)
        log.close()
    _, found = drift(first, tmp_path / "sure", capsys=capsys)
    assert found["kind"] == "skew" and found["samples"][1] == len(rest)
    _, found = drift(tmp_path / "sure", tmp_path / "unsure", capsys=capsys)
    assert found["drifted"] == ["confidence"] and "the model is less sure" in words(found, "confidence")


@pytest.mark.parametrize("old", [0, 0.6, 1], ids=["none", "some", "all"])
@pytest.mark.parametrize("logged", [0, 1], ids=["before", "after"])
def test_confidences_of_lines_in_logs_of_earlier_clients_are_no_drift(logged, old):
    """Those have four decimals, 0.0000 for most long lines; runs and logs of today's clients have all that matter."""
    source = np.random.default_rng(2)

    def compared(*medians):
        sides = [np.exp(np.log(median) + source.normal(0, 5, 400)).clip(0, 1) for median in medians]
        sides[logged][: round(400 * old)] = sides[logged][: round(400 * old)].round(4)
        pair = [profiles.Profile("", 400, 400, {"confidence": values}) for values in sides]
        return next(m for m in comparison.compare(*pair, {}).measures if m.name == "confidence")

    assert not any(compared(6e-6, 6e-6).drifted for _ in range(20))
    assert all(compared(6e-6, 5e-3).drifted for _ in range(20))
    if not old:  # four decimals cannot tell these
        assert all(compared(6e-6, 1e-8).drifted for _ in range(20))


def test_a_day_that_differs_does_not_drown_in_older_logs(images, tmp_path, capsys):
    first, log = span(tmp_path / "first", images[:60]), tmp_path / "log"
    span(log, [*images[60:160], *((255 - grey, text) for grey, text in images[160:190])])
    header, *rows = (log / "labels.csv").read_text(encoding="utf-8").splitlines()
    since = datetime.now(timezone.utc) - timedelta(days=1)
    times = [since - timedelta(days=1) if number < 100 else since for number in range(130)]
    timed = [f"{row},{time:%Y-%m-%dT%H:%M:%S+00:00}" for row, time in zip(rows, times, strict=True)]
    (log / "labels.csv").write_text("\n".join([f"{header},Time", *timed, f"{rows[0]},yesterday", "0.png", ""]))
    code, found = drift(first, log, "--since", f"{since:%Y-%m-%dT%H:%M:%SZ}", capsys=capsys)
    assert code == 0 and found["samples"] == [60, 30] and {"paper_level", "ink_level"} <= set(found["drifted"])
    assert any("left out 2 rows without a date and a time" in note for note in found["notes"])
    assert cli.main(["drift", "--against", str(log), "--data", str(first), "--since", "1d"]) == cli.USAGE
    assert "labels.csv has no column time" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1", "1y", "yesterday", "2026-13-01", "999999w"])
def test_since_when_is_checked(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["drift", "--data", "log", "--since", text])
    assert "--since: either so long ago" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "hours"), [("90m", 1.5), ("12h", 12), ("1d", 24), ("2w", 336)])
def test_so_long_ago(text, hours):
    assert abs(datetime.now(timezone.utc) - timedelta(hours=hours) - parse_since(text)) < timedelta(minutes=1)


def test_a_date_without_a_zone_is_of_utc(far_east):
    assert parse_since("2026-11-28T06:00") == datetime(2026, 11, 28, 6, tzinfo=timezone.utc)


def test_text_says_what_moved(halves, tmp_path, capsys):
    first, rest, _ = halves
    after = span(tmp_path / "after", rest[:30], lambda grey: 255 - grey)
    assert cli.main(["drift", "--against", str(first), "--data", str(after)]) == 0
    out = capsys.readouterr().out
    assert "share of dark pixels: median 0.1" in out and "Within their thresholds" in out
    assert "Fewer than 50 images say little" in out


def test_prometheus_gets_the_same_figures(halves, tmp_path, capsys):
    first, images, _ = halves
    after = span(tmp_path / "after", images, lambda grey: 255 - grey)
    code, found = drift(first, after, "--fail", "--prometheus", str(tmp_path / "drift.prom"), capsys=capsys)
    assert code == cli.DRIFT
    text = (tmp_path / "drift.prom").read_text()
    labels = 'before="first",after="after"'
    for measure in found["measures"]:
        for name, value in (("htr_drift", measure["distance"]), ("htr_drift_allowed", measure["threshold"])):
            shown = re.search(rf'^{name}{{{labels},measure="{measure["name"]}"}} (\S+)$', text, re.M)[1]
            assert float(shown) == value
    for side, count in zip(("before", "after"), found["samples"], strict=True):
        assert f'htr_drift_images{{{labels},side="{side}"}} {count}\n' in text
    with pytest.raises(SystemExit) as refused:
        cli.main(["drift", "--data", str(after), "--prometheus", "drift.txt"])
    assert refused.value.code == cli.USAGE and "named *.prom" in capsys.readouterr().err


def test_divergence_is_zero_for_chance_and_one_for_nothing_in_common():
    source = np.random.default_rng(0)
    shares = np.array([0.5, 0.2, 0.2, 0.1])
    drawn = [divergence(*(source.multinomial(n, shares) for n in (200, 60))) for _ in range(500)]
    assert np.mean(drawn) < 0.006 and max(drawn) < 0.1
    few = [divergence(*(source.multinomial(n, shares) for n in (8, 20))) for _ in range(500)]
    assert np.mean(np.array(few) > 0.2) < 0.02, "a handful of images drift by chance"
    assert divergence(np.array([9000, 0]), np.array([0, 9000])) == pytest.approx(1, abs=1e-3)
    # By hand: half of p log2(p / m) + q log2(q / m), samples so large that chance plays no part.
    p, q = 0.8, 0.3
    expected = sum(a / 2 * math.log2(a / ((a + b) / 2)) + b / 2 * math.log2(b / ((a + b) / 2))
                   for a, b in ((p, q), (1 - p, 1 - q)))  # fmt: skip
    assert divergence(np.array([8e8, 2e8]), np.array([3e8, 7e8])) == pytest.approx(expected, abs=1e-6)


def told_by_tfdv(values, kept):
    """A profile as `of_run` makes it of the statistics that StatisticsGen leaves."""
    options = tfdv.StatsOptions(num_quantiles_histogram_buckets=kept)
    found = tfdv.generate_statistics_from_dataframe(pd.DataFrame({"x": values}), options)
    numbers, known_at = quantiles(found.datasets[0].features[0].num_stats)
    return profiles.Profile("run", len(values), len(values), {"text_length": numbers},
                            known_at={"text_length": known_at})  # fmt: skip


def of_lengths(values):
    return profiles.Profile("folder", len(values), len(values), {"text_length": values.astype(float)})


def lengths_apart(before, after):
    return next(m for m in comparison.compare(before, after, {}).measures if m.name == "text_length")


SOURCE = np.random.default_rng(1)
DRAWS = {
    "names": lambda n, more=0: np.clip(SOURCE.normal(6.3 + more, 1.6, n).round(), 2, 14).astype(int),
    "words": lambda n, more=0: np.clip(SOURCE.normal(8 + more, 2, n).round(), 1, 40).astype(int),
    "amounts": lambda n, more=0: SOURCE.choice([3, 4, 5, 6], n, p=[0.2, 0.5, 0.2, 0.1]) + more,
    "two heights": lambda n, more=0: SOURCE.choice([40, 64], n, p=[0.45, 0.55]) + 5 * more,
    "ten heights": lambda n, more=0: SOURCE.integers(0, 10, n) * 7 + 30 + 7 * more,
    "all the same": lambda n, more=0: np.full(n, 5) + more,
}


@pytest.mark.parametrize("kept", [10, QUANTILES], ids=["of 0.1.0", "now"])
@pytest.mark.parametrize("name", DRAWS)
def test_a_run_tells_whole_numbers_apart_as_a_folder_does(name, kept):
    draw = DRAWS[name]
    before, same, longer = draw(5000), draw(2000), draw(2000, 1)
    run = told_by_tfdv(before, kept)
    assert lengths_apart(run, of_lengths(same)).distance < 0.01
    assert lengths_apart(run, of_lengths(same)).before == np.median(before)
    for after in (longer, draw(2000, -1)):
        by_folder = lengths_apart(of_lengths(before), of_lengths(after)).distance
        assert lengths_apart(run, of_lengths(after)).distance > by_folder / 3 > 0.01


@pytest.mark.parametrize(
    ("name", "before", "after", "apart"),
    [("height", 40, 41, False), ("height", 40, 42, True), ("paper_level", 255, 254, False), ("ink_level", 0, 1, True)],
)
def test_a_row_of_pixels_or_a_grey_level_more_is_no_drift(name, before, after, apart):
    def levels(value):
        return profiles.Profile("folder", 500, 500, {name: np.full(500, float(value))})

    measured = next(m for m in comparison.compare(levels(before), levels(after), {}).measures if m.name == name)
    assert measured.drifted == apart and (measured.before, measured.after) == (before, after)


def test_thresholds_come_from_the_curated_schema_and_may_be_set():
    for kind in ("drift", "skew"):
        read = thresholds.read(kind, {"sharpness": 0.7, "confidence": 0.1})
        assert read["sharpness"] == pytest.approx(0.7) and read["width"] == pytest.approx(0.2)
        # Every measure has exactly one home.
        assert sorted([*read, *thresholds.OWN]) == sorted(DRIFT_MEASURES)


def test_unknown_measure_is_refused():
    with pytest.raises(ConfigError, match="blur is no measure; there are width"):
        load(overrides=["drift.thresholds.blur=1"])
    assert Config().drift.fail is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/nowhere"], "/nowhere does not exist"),
        (["--data", ".", "--against", ".", "--run", "latest"], "exclude each other"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert cli.main(["drift", *arguments]) == cli.USAGE
    assert message in capsys.readouterr().err


def validated(count, states):
    """A store with some statistics, which were validated in the order of (statistics, state of the execution)."""
    import ml_metadata
    from ml_metadata.proto import metadata_store_pb2 as pb
    from tfx.utils import name_utils

    from components.example_validator.component import ExampleValidator

    connection = pb.ConnectionConfig()
    connection.fake_database.SetInParent()
    store = ml_metadata.MetadataStore(connection)
    kind = store.put_artifact_type(pb.ArtifactType(name="ExampleStatistics"))
    validator = store.put_execution_type(pb.ExecutionType(name=name_utils.get_full_name(ExampleValidator)))
    ids = store.put_artifacts([pb.Artifact(type_id=kind) for _ in range(count)])
    for place, state in states:
        (execution,) = store.put_executions(
            [pb.Execution(type_id=validator, last_known_state=pb.Execution.State.Value(state))]
        )
        store.put_events([pb.Event(artifact_id=ids[place], execution_id=execution, type=pb.Event.INPUT)])
    return store, ids, store.get_artifacts_by_id(ids)


def test_data_is_compared_with_that_of_the_run_before_also_where_it_is_older():
    from components.example_validator.previous_step import PreviousStatistics

    # Data A, data B, A again, whose statistics are those of the first time, and then C.
    store, ids, statistics = validated(3, [(0, "COMPLETE"), (1, "COMPLETE"), (0, "CACHED")])
    found = PreviousStatistics().resolve_artifacts(store, {"current": statistics[2:], "statistics": statistics})
    assert [artifact.id for artifact in found["statistics"]] == [ids[0]]


def test_refused_statistics_are_no_measure_for_later_ones():
    """After `drift.fail` has ended a run, data that is close to what it refused must not pass."""
    from components.example_validator.previous_step import PreviousStatistics

    store, ids, statistics = validated(4, [(0, "COMPLETE"), (1, "CACHED"), (2, "FAILED")])
    found = PreviousStatistics().resolve_artifacts(store, {"current": statistics[-1:], "statistics": statistics})
    assert [artifact.id for artifact in found["statistics"]] == [ids[1]]
    alone = PreviousStatistics().resolve_artifacts(store, {"current": statistics[2:3], "statistics": statistics[2:3]})
    assert alone["statistics"] == []


def test_drift_draws_no_figures():
    code = (
        "import sys, components.tools.drift.comparison as _\n"
        "sys.exit(bool({'matplotlib', 'tensorflow', 'tfx'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
