"""The real thing: `htr run` on a small dataset, the embedded server on what it pushed, the client against it."""

import contextlib
import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from components.common.versions import list_versions
from components.example_gen import dataset
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SPLITS
from components.transform.settings import TransformConfig
from pipeline import cli
from tests.conftest import until, write_dataset
from tests.end_to_end.conftest import FAST, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The folder for temporary files of the workspace's first run."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, temporary, data):
    """A workspace with one run, made by the installed command in a process of its own; with a copy of both."""
    folder, saved = tmp_path_factory.mktemp("workspace"), tmp_path_factory.mktemp("saved")
    command = [sys.executable, "-m", "pipeline.cli", "run", "--data", str(data), "--workspace", str(folder), "--json"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(
        command + [f"--set={s}" for s in FAST], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    (folder / "first.json").write_text(done.stdout)
    (folder / "first.txt").write_text(done.stderr)
    shutil.copytree(folder, saved / "workspace", symlinks=True)
    shutil.copytree(data, saved / "data", symlinks=True)
    return folder, saved


@pytest.fixture
def workspace(first_run, data):
    """The workspace as its first run left it, and the data as it was then: no test sees what another one did."""
    folder, saved = first_run
    for path in (folder, data):
        shutil.rmtree(path)
    shutil.copytree(saved / "workspace", folder, symlinks=True)
    shutil.copytree(saved / "data", data, symlinks=True)
    return folder


def start_server(workspace, port=0):
    """Starts the embedded server as `htr serve` does; returns its process and address once it answers."""
    command = [sys.executable, "-m", "pipeline.cli", "serve", "--workspace", str(workspace), f"--port={port}"]
    with open(workspace / "server.log", "ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    return process, re.search(r"grpc=(\S+)", process.stdout.readline())[1]


@contextlib.contextmanager
def served(workspace):
    """A running embedded server; yields its address."""
    process, address = start_server(workspace)
    try:
        yield address
    finally:
        process.terminate()
        assert process.wait(30) == 0


def versions(workspace):
    return [v.number for v in list_versions(str(workspace / "serving_model" / "htr")) if not v.withdrawn]


def test_first_run_ends_with_a_pushed_version(workspace):
    from components.report import summary

    outcome = json.loads((workspace / "first.json").read_text())
    assert outcome["blessed"] and outcome["version"] == versions(workspace)[0]
    assert outcome["cer_low"] <= outcome["cer"] <= outcome["cer_high"]
    assert outcome["model_dir"] == str(workspace / "serving_model" / "htr")
    text = (workspace / "first.txt").read_text()
    assert "Training the network" in text and "CER" in text
    accepted = summary.read(str(workspace), "htr").counts["accepted"]
    (images,) = re.findall(r"^Images +(.*?) *$", text, re.M)
    assert sorted(images.split(", ")) == sorted(f"{accepted[split]} {split}" for split in SPLITS)
    assert "tensorflow" not in text.lower().replace("loading tfx and tensorflow", "")


def test_no_temporary_files_are_left(workspace, temporary):
    assert not list(temporary.iterdir())


def test_nobody_else_can_write_the_workspace(workspace):
    found = [path for path in workspace.rglob("*") if not path.is_symlink() and path.lstat().st_mode & stat.S_IWOTH]
    assert not found


def test_every_dirty_row_is_in_the_quarantine_with_its_reason(workspace, data):
    with open(workspace / "rejects.csv", encoding="utf-8", newline="") as file:
        found = Counter(row["reason"] for row in csv.DictReader(file))
    expected = {
        "missing_file": "missing_file", "truncated_png": "image_truncated", "truncated_jpeg": "image_truncated",
        "empty_label": "empty_label", "label_empty": "placeholder_label", "label_unreadable": "placeholder_label",
        "zero_byte_file": "image_empty", "text_file": "not_an_image",
    }  # fmt: skip
    listed = Counter()
    for line in (data / "README.txt").read_text().splitlines():
        kind = next(
            (kind for kind in expected if re.search(rf"\b{kind}\b", line) and re.search(r"SAMPLE_\d", line)), None
        )
        if kind:
            listed[expected[kind]] += 1
    assert found == listed and sum(found.values()) >= 8
    assert found == Counter(json.loads((workspace / "first.json").read_text())["rejected"])


def test_identical_run_does_no_work(workspace, data, capsys):
    before = versions(workspace)
    ran = run(data, workspace, capsys)
    assert ran.code == 0
    assert {name for name, state in ran.states.items() if state != "CACHED"} == {"PreviousStatistics"}
    assert versions(workspace) == before == [ran.outcome["version"]]


def transcribed(workspace):
    """Texts of the last run's BulkInferrer by the paths of their images, and its counts."""
    from components.report import summary

    made = Path(summary.read(str(workspace), "htr").transcriptions_folder)
    lines = [json.loads(line) for path in made.glob("texts-0*.jsonl") for line in path.read_text().splitlines()]
    return {line["path"]: line["text"] for line in lines}, json.loads((made / "counts.json").read_text())


@pytest.mark.either_stack
def test_new_images_are_transcribed_by_a_blessed_model(workspace, data, tmp_path, capsys):
    """BulkInferrer: the texts are those of the server; a new image is noticed."""
    from htr_client import HtrClient

    folder = tmp_path / "new"
    (folder / "below").mkdir(parents=True)
    ran = run(data, workspace, capsys, f"bulk.folder={folder}")
    assert ran.code == 0 and "0 images in" in ran.err
    for number, path in enumerate(sorted((data / "images").glob("*.png"))[:5]):
        shutil.copyfile(path, folder / "below" / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    ran = run(data, workspace, capsys, f"bulk.folder={folder}")
    assert ran.code == 0 and ran.states["Trainer"] == "CACHED" and ran.states["BulkInferrer"] == "COMPLETE"
    assert "6 images in" in ran.err and "1 could not be read" in ran.err
    found, counts = transcribed(workspace)
    assert counts == {"folder": str(folder), "blessed": True, "images": 6, "errors": 1, "suspicions": {}}
    with served(workspace) as address, HtrClient(address) as client:
        asked = {path: client.transcribe(folder / path).text for path in found}
    assert len(found) == 5 and found == asked
    assert run(data, workspace, capsys, f"bulk.folder={folder}").states["BulkInferrer"] == "CACHED"


@pytest.mark.either_stack
def test_gate_stops_a_bad_model_and_the_server_goes_on(workspace, data, tmp_path, capsys):
    """The model transcribes nothing either, and its run is listed and compared with the first."""
    from htr_client import HtrClient

    before, bulk = versions(workspace), tmp_path / "new"
    shutil.copytree(data / "images", bulk)
    with served(workspace) as address, HtrClient(address) as client:
        image = next((data / "images").glob("*.jpg"))
        assert client.transcribe(image).version == before[0]
        settings = ("gate.max_cer=0.0001", "gate.slice_max_cer={writer: 0.00001}", f"bulk.folder={bulk}")
        ran = run(data, workspace, capsys, *settings)
        assert ran.code == cli.NOT_BLESSED
        assert re.search(r"CER for writer = \S+ is \d\.\d+, gate.slice_max_cer allows 1e-05", ran.err)
        assert not ran.outcome["blessed"] and ran.outcome["version"] is None
        assert re.search(r"interval is \d\.\d+, gate.max_cer allows 0.0001: \d\.\d+ too much", ran.err)
        assert ran.states["Trainer"] == "CACHED" and ran.states["Evaluator"] == "COMPLETE"
        assert versions(workspace) == before
        assert client.transcribe(image).version == before[0]
    assert "images in" not in ran.err
    assert transcribed(workspace) == ({}, {"folder": str(bulk), "blessed": False})
    listed_and_compared_without_tensorflow(workspace, before[0])


def listed_and_compared_without_tensorflow(workspace, first):
    """Checks `htr runs`, `htr compare` and `htr report` where the run after the one of a version was refused."""
    from components.report import summary

    runs = summary.read_all(str(workspace), "htr")
    other = next(run for run in runs if run.metrics and run.metrics["config"]["gate"]["max_cer"] == 0.0001)
    code = (
        "import sys\nfrom pipeline import cli\n"
        "for command in (['runs'], ['compare', sys.argv[2], sys.argv[3]], ['report', sys.argv[2]]):\n"
        "    assert cli.main([*command, '--workspace', sys.argv[1]]) == 0\n"
        "loaded = [m for m in ('tfx', 'tensorflow', 'apache_beam', 'keras') if m in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    arguments = [str(workspace), str(first), other.run_id]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    listed = lines[1 : 1 + len(runs)]
    assert [line.split()[0] for line in listed] == [run.name for run in runs]
    assert any("not blessed" in line for line in listed) and any(str(first) in line for line in listed)
    assert re.search(r"gate.max_cer +null +-> +0.0001", done.stdout)
    assert "Is B better?" in done.stdout and "on the same" in done.stdout
    assert lines[-1].endswith(".html") and Path(lines[-1]).exists()


@pytest.mark.either_stack
def test_change_reruns_what_depends_on_it_and_the_server_takes_the_new_version(workspace, data, capsys):
    from htr_client import HtrClient

    (first,) = versions(workspace)
    image_path = next((data / "images").glob("*.jpg"))
    with served(workspace) as address, HtrClient(address) as client:
        assert client.transcribe(image_path).version == first

        # Settings of the training, and a search for better ones: data and Transform stay as they are.
        ran = run(
            data, workspace, capsys, "train.learning_rate=0.001", "gate.max_cer_increase=null", "tune.trials=1",
            "tune.epochs=1",
        )  # fmt: skip
        assert ran.code == 0 and len(ran.out.splitlines()) == 1
        done = {name for name, state in ran.states.items() if state == "COMPLETE"}
        assert done == {
            "PreviousStatistics",
            "Tuner",
            "Trainer",
            "LanguageModel",
            "Baseline",
            "Evaluator",
            "RunReport",
            "ServingCheck",
            "Pusher",
        }
        assert versions(workspace) == [first, ran.outcome["version"]]
        until(lambda: client.transcribe(image_path).version != first, 60)

        # Back to the version before, by the command.
        assert cli.main(["rollback", "--workspace", str(workspace)]) == 0
        assert versions(workspace) == [first]
        until(lambda: client.transcribe(image_path).version == first, 60)


def test_the_interval_and_rate_are_those_of_the_served_model(workspace, data):
    """CER that the gate saw = CER of asking the server for the same images."""
    from components.common.metrics import count_errors
    from components.report import summary
    from htr_client import HtrClient

    metrics = summary.read(str(workspace), "htr").verdict.metrics
    settings = DataConfig(paths=[str(data)])
    checked = dataset.examine_all(settings, TransformConfig())
    samples = [s for s in checked if isinstance(s, dataset.Sample) and s.split == "eval"]
    with served(workspace) as address, HtrClient(address) as client:
        texts = [result.text for result in client.transcribe_many(sample.image for sample in samples)]
    counts = count_errors([s.text for s in samples], texts)
    assert (counts.rate, *counts.interval(0.95)) == (metrics["cer"], metrics["cer_low"], metrics["cer_high"])
    assert counts.samples == metrics["samples"]


@pytest.mark.either_stack
def test_killed_server_comes_back_and_no_result_is_lost_or_doubled(workspace, data):
    """kill -9 in the middle of 2,000 images, 5 % of them corrupt."""
    from htr_client import HtrClient

    settings = DataConfig(paths=[str(data)])
    checked = dataset.examine_all(settings, TransformConfig())
    images = [sample.image for sample in checked if isinstance(sample, dataset.Sample)]
    images = [images[i % len(images)] if i % 20 else images[i % len(images)][:-40] for i in range(2000)]
    process, address = start_server(workspace)
    try:
        with HtrClient(address) as client:
            expected = [result.text for result in client.transcribe_many(images)]
            results = []
            for result in client.transcribe_many(images):
                results.append(result)
                if len(results) == 300:
                    process.kill()
                    process.wait()
                    process, _ = start_server(workspace, address.rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait(30)
    assert len(results) == 2000
    assert [i for i, result in enumerate(results) if not result.ok] == list(range(0, 2000, 20))
    assert all(r.text == expected[i % len(images)] for i, r in enumerate(results) if r.ok)


def test_report_stands_alone(workspace):
    html = min((workspace / "reports").glob("*.html")).read_text()
    assert "Blessed: this model may ship." in html and "Pushed as version" in html and "data:image/jpeg" in html
    assert "Trainer" in html and "GiB" in html  # timings and memory, from ML Metadata
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)


def test_all_figures_are_the_evaluators_to_the_last_digit(workspace):
    from components.common.metrics import count_errors
    from components.common.writers import without_writers
    from components.evaluator.tfma_verdict import read_verdict
    from components.report import analysis, summary

    printed = json.loads((workspace / "first.json").read_text())
    run = summary.read(str(workspace), "htr", str(printed["version"]))
    evaluations = (workspace / "pipeline" / "Evaluator" / "evaluation").iterdir()
    evaluation = min(evaluations, key=lambda path: int(path.name))
    evaluated = read_verdict(str(evaluation))
    assert run.verdict == evaluated
    assert run.metrics["metrics"] == evaluated.metrics and run.metrics["slices"] == evaluated.slices
    for name in ("cer", "cer_low", "cer_high", "wer"):
        assert printed[name] == evaluated.metrics[name]
    card = workspace / "serving_model" / "htr" / f"{printed['version']}.metrics.json"
    assert json.loads(card.read_text()) == without_writers(run.metrics)
    # What the report counts itself in the texts that Evaluator kept; all its slices and curves rest on it.
    table = analysis.read_csv(os.path.join(run.report_folder, "predictions.csv"))
    for unit, name in (("character", "cer"), ("word", "wer")):
        counts = count_errors(table["text"], table["prediction"], unit)
        found = (counts.rate, *counts.interval(0.95))
        assert found == tuple(evaluated.metrics[key] for key in (name, f"{name}_low", f"{name}_high"))
    by_name = {f"{g['name']} = {r['value']}": r for g in run.report["slices"] for r in g["rows"]}
    shared = set(by_name) & set(evaluated.slices)
    assert {name.partition(" = ")[0] for name in shared} == {"writer", "length_band"}
    for name in shared:
        assert by_name[name]["rate"] == evaluated.slices[name]["cer"]
        assert by_name[name]["high"] == evaluated.slices[name]["cer_high"]
    assert f"{100 * evaluated.metrics['cer']:.2f} %" in run.page()


def test_card_and_note_on_the_images_lie_beside_the_version(workspace):
    from components.report import summary

    version = json.loads((workspace / "first.json").read_text())["version"]
    card = (workspace / "serving_model" / "htr" / f"{version}.model_card.md").read_text()
    assert "## Intended use" in card and "character error rate" in card and "not stated" in card
    learnt = (workspace / "serving_model" / "htr" / f"{version}.learnt_images").stat().st_size // 8
    accepted = summary.read(str(workspace), "htr", str(version)).counts["accepted"]
    assert 0.9 < learnt / (accepted["train"] + accepted["validation"]) <= 1


def test_two_runs_in_one_workspace_are_refused(workspace, data, capsys):
    from pipeline.runners import local_runner

    with local_runner.locked(str(workspace)):
        ran = run(data, workspace, capsys)
    assert ran.code == cli.ERROR and "Another run works in" in ran.err


def test_too_many_bad_rows_end_with_code_4(tmp_path, capsys):
    rows = [{"filename": f"{i}.png", "text": "" if i % 5 == 0 else "ab"} for i in range(100)]
    folder = write_dataset(tmp_path / "data", rows)
    ran = run(folder, tmp_path / "workspace", capsys)
    assert ran.code == cli.TOO_MANY_REJECTS
    assert "20 of 100 rows were rejected" in ran.err and "20 empty_label" in ran.err
    assert ran.states == {"HandwritingExampleGen": "FAILED"}
    assert len((tmp_path / "workspace" / "rejects.csv").read_text().splitlines()) == 21
    assert cli.main(["check", "--data", str(folder)]) == cli.TOO_MANY_REJECTS


def test_broken_csv_in_the_middle_is_one_clear_paragraph(tmp_path, capsys):
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": "ab"} for i in range(30)])
    with open(folder / "labels.csv", "ab") as file:
        file.write("1.png,Zoë\n".encode("latin-1"))
    ran = run(folder, tmp_path / "workspace", capsys)
    assert ran.code == cli.USAGE
    error = ran.err[ran.err.index("error:") :]
    assert "labels.csv is not utf-8 text" in error and "data.encoding" in error
    assert "Traceback" not in ran.err and len(error.strip().splitlines()) == 1


@pytest.mark.either_stack
def test_anomalies_stop_the_run(tmp_path, capsys, monkeypatch):
    impossible = {"paper_level": 300.0, "ink_level": 0.0, "ink_share": 0.1, "sharpness": 1.0}
    monkeypatch.setattr(dataset, "describe", lambda greys: [impossible] * len(greys))
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": "ab"} for i in range(60)])
    ran = run(folder, tmp_path / "workspace", capsys)
    assert ran.code == cli.USAGE
    assert "paper_level" in ran.err and "schema" in ran.err
    assert ran.states["ExampleValidator"] == "FAILED" and "Transform" not in ran.states


@pytest.mark.either_stack
def test_readme_snippets(workspace, data):
    """The Python snippets of both READMEs run as they stand, on the pushed model and against its server."""
    root = Path(__file__).parents[2]
    texts = [(root / name).read_text("utf-8") for name in ("README.md", "serving/README.md")]
    snippets = [snippet for text in texts for snippet in re.findall(r"```python\n(.*?)```", text, re.S)]
    local = next(s for s in snippets if "saved_model" in s)
    remote = next(s for s in snippets if "HtrClient" in s)
    here = next(s for s in snippets if "local_client" in s)
    image = next((data / "images").glob("*.jpg"))
    model = workspace / "serving_model" / "htr" / str(versions(workspace)[-1])
    with served(workspace) as address:
        texts = []
        for snippet in (local, remote, here):
            code = re.sub(r'"[^"]*serving_model[^"]*"', repr(str(model)), snippet)
            code = code.replace("local_client()", f"local_client({str(workspace)!r})")
            code = code.replace("localhost:8500", address).replace('"word.png"', repr(str(image)))
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
            assert done.returncode == 0, done.stderr
            texts.append(done.stdout.splitlines()[0])
    assert texts[1].startswith(texts[0]) and texts[2].startswith(texts[0])
