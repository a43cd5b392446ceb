"""What happens when processes are killed, disks fill up, files are damaged or the clock goes back.

The commands are real processes. Pipelines are short (see `FAST`), and one workspace serves several tests, in the order
of this file.
"""

import contextlib
import datetime
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.common import run_metadata, storage
from components.common.versions import list_versions, offered
from components.pusher import publishing
from components.report import summary
from tests.faults.conftest import REPOSITORY, run_arguments

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]

# Steps to be killed in, with the line that announces each and seconds to wait after it.
KILLED = {
    "HandwritingExampleGen": ("Reading labels and images", 0.4),
    "Transform": ("Resizing and normalising images", 1.5),
    "Trainer": ("Training the network", 2.0),
    "Evaluator": ("Measuring CER and WER", 1.0),
    "RunReport": ("Writing the report", 0.4),
    "ServingCheck": ("Checking the model in a server", 0.4),
    "Pusher": ("Pushing the model", 0.0),
}
NEVER_CACHED = {"PreviousStatistics"}


@pytest.fixture(scope="module")
def whole(forge, data, tmp_path_factory):
    """A workspace with one undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    done = forge.run(*run_arguments(data, folder))
    assert done.code == 0, done.err
    (folder / "outcome.json").write_text(done.out)
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    return tmp_path_factory.mktemp("interrupted")


def states(workspace):
    """States of the steps of the last run."""
    return {step.name: step.state for step in summary.read(str(workspace), "htr").steps}


def done_by(workspace):
    """Steps that the last run has not found in the cache, of those that ever are."""
    return {name for name, state in states(workspace).items() if state == "COMPLETE"} - NEVER_CACHED


def model_dir(workspace):
    return workspace / "serving_model" / "htr"


def numbers(workspace):
    return [version.number for version in offered(str(model_dir(workspace)))]


def assert_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


def assert_readable(process, code=1):
    """It has ended with one paragraph, and not with a traceback."""
    assert process.code == code, process.err
    message = process.err.rpartition("\nerror: ")[2].strip()
    assert message and "\n\n" not in message and "Traceback" not in process.err
    return message


# -- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", KILLED)
def test_killed_in_the_middle_of(step, forge, data, interrupted):
    """Each run goes on where the one before was killed, until it is killed itself."""
    line, seconds = KILLED[step]
    found: dict[str, str] = {}
    run = forge.start(*run_arguments(data, interrupted))
    run.says(line)
    if step == "ServingCheck":
        run.until(run.family)
    time.sleep(seconds)
    family = run.family()
    run.signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert_gone(family)
    # On a slow machine the first step is announced some time before its run is recorded.
    with contextlib.suppress(run_metadata.NoSuchRun) if step == next(iter(KILLED)) else contextlib.nullcontext():
        found = states(interrupted)
    assert found.pop(step, "RUNNING") == "RUNNING", "too late: the step was done"
    order, killed = list(found), list(KILLED)
    before = killed[killed.index(step) - 1] if step != killed[0] else order[0] if order else None
    expected = set(order[: order.index(before)]) - NEVER_CACHED if before else set()
    assert {name for name, state in found.items() if state == "CACHED"} == expected
    assert not numbers(interrupted)


def test_the_run_after_the_kills_has_the_result_of_an_undisturbed_one(forge, data, interrupted, whole):
    done = forge.run(*run_arguments(data, interrupted))
    assert done.code == 0, done.err
    assert done_by(interrupted) == {"Pusher"}
    ours, theirs = (json.loads(text) for text in (done.out, (whole / "outcome.json").read_text()))
    for outcome in (ours, theirs):
        del outcome["version"], outcome["model_dir"]
    assert ours == theirs
    runs = [summary.read(str(folder), "htr") for folder in (interrupted, whole)]
    assert runs[0].counts == runs[1].counts and runs[0].verdict == runs[1].verdict
    models = [model_dir(folder) / str(numbers(folder)[0]) for folder in (interrupted, whole)]
    alphabets = [json.loads((model / "assets.extra" / "htr.json").read_text())["alphabet"] for model in models]
    assert alphabets[0] == alphabets[1]
    (exported,) = [
        path for path in (interrupted / "pipeline/LanguageModel/model").glob("*/*") if (path / "assets").exists()
    ]
    assert storage.digest(str(exported)) == storage.digest(str(models[0]))


def push_for_ever(source, base):
    while True:
        publishing.push(source, base, keep=2)


def test_killed_pushes_leave_whole_versions_or_none(tmp_path):
    source, base = tmp_path / "model", tmp_path / "versions"
    for number in range(40):
        file = source / "variables" / f"{number:02d}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(100_000))
    expected, moment, seen = storage.digest(str(source)), random.Random(1), 0
    for _ in range(25):
        process = multiprocessing.Process(target=push_for_ever, args=(str(source), str(base)))
        process.start()
        time.sleep(moment.uniform(0.02, 0.3))
        process.kill()
        process.join()
        found = list_versions(str(base))
        assert all(storage.digest(version.path) == expected for version in found)
        assert not seen or found[-1].number >= seen, "the newest version is gone"
        seen = found[-1].number if found else 0
    assert seen
    for path in base.glob(".incoming-*"):
        os.utime(path, (0, 0))  # a day later
    publishing.push(str(source), str(base), keep=2)
    assert not list(base.glob(".*going-*")) and len(offered(str(base))) == 2, "leftovers of killed pushes"


# -- stopped ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_ends_soon_and_goes_on_later(number, forge, data, whole):
    """In the middle of the check of the server, which has a child process; settings as before up to the Trainer."""
    arguments = run_arguments(data, whole, "gate.confidence_level=0.9")
    before = numbers(whole)
    run = forge.start(*arguments)
    run.says("Checking the model in a server")
    run.until(run.family)
    family = run.family()
    run.signal(number)
    assert run.wait(15) == 128 + number
    assert "Interrupted." in run.err and "Traceback" not in run.err
    assert_gone(family)
    assert states(whole)["Trainer"] == "CACHED" and numbers(whole) == before


def test_a_stopped_training_ends_soon(forge, data, whole):
    run = forge.start(*run_arguments(data, whole, "train.seed=5", "train.epochs=500"))
    run.says("unless training stops early")  # after the first batches
    run.signal(signal.SIGTERM)
    assert run.wait(15) == 143
    again = forge.start(*run_arguments(data, whole, "train.seed=5", "train.epochs=500"))
    again.says("of a training that was interrupted")
    again.signal(signal.SIGTERM)
    assert again.wait(15) == 143


def test_two_runs_at_once(forge, data, whole):
    first = forge.start(*run_arguments(data, whole))
    first.says("[1/")
    first.signal(signal.SIGSTOP)
    try:
        message = assert_readable(forge.run(*run_arguments(data, whole)))
        assert "Another run works in" in message and str(whole) in message
    finally:
        first.signal(signal.SIGCONT)
    assert first.wait() == 0


def test_an_abort_while_stopping_has_the_exit_code_of_the_signal():
    code = """
import os, signal, time
from components.common.stopping import Stopped, stoppable
try:
    with stoppable(3.0):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
except Stopped:
    os.abort()
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 143
    assert subprocess.run([sys.executable, "-c", "import os; os.abort()"]).returncode == -signal.SIGABRT


def test_a_signal_in_a_beam_step_is_no_failure_of_the_step():
    code = """
import signal
import apache_beam as beam
from components.common.stopping import Stopped, stoppable
for number in (signal.SIGTERM, signal.SIGINT):
    try:
        with stoppable(), beam.Pipeline("FnApiRunner") as pipeline:
            pipeline | beam.Create([number]) | beam.Map(signal.raise_signal)
    except Stopped as stopped:
        print(stopped.code, stopped.__cause__)
    try:
        with stoppable():
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt as error:
                raise RuntimeError("an engine's own words")
    except Stopped as stopped:
        print(stopped.code, stopped.__cause__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "143 None",
        "143 an engine's own words",
        "130 None",
        "130 an engine's own words",
    ], done.stderr


def test_a_stopped_check_leaves_neither_workers_nor_half_a_report(forge, data, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    (many / "images").symlink_to(data / "images")
    (labels,) = data.glob("*.csv")
    header, *rows = labels.read_text(encoding="utf-8").splitlines()
    (many / "labels.csv").write_text("\n".join([header, *rows * 300]), encoding="utf-8")
    check = forge.start("check", "--data", many, "--html", tmp_path / "check.html", "--rejects", tmp_path / "out.csv")
    check.until(check.family)
    time.sleep(0.5)
    family = check.family()
    check.signal(signal.SIGTERM)
    assert check.wait(15) == 143
    assert_gone(family)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many"]


@pytest.mark.parametrize("arguments", [["check"], ["drift", "--against", "{data}"]])
def test_a_killed_command_leaves_no_workers(arguments, forge, data):
    command = forge.start(*(a.format(data=data) for a in arguments), "--data", data)
    command.until(command.family)
    family = command.family()
    command.signal(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    assert_gone(family)


def test_a_stopped_transcription_goes_on(forge, data, whole, tmp_path):
    images, output = tmp_path / "images", tmp_path / "out" / "texts.jsonl"
    for copy in range(10):
        shutil.copytree(data / "images", images / str(copy))
    arguments = ["transcribe", "--workspace", whole, "--input", images, "--output", output, "--shard-size", "60"]
    first = forge.start(*arguments, "--set", "beam.workers=2")
    first.until(lambda: list(output.parent.glob("texts-0*.jsonl")))
    family = first.family()
    first.signal(signal.SIGTERM)
    assert first.wait(15) == 143
    assert family
    assert_gone(family)
    kept = {path: path.read_bytes() for path in output.parent.glob("texts-0*.jsonl")}
    assert all(json.loads(line)["path"] for content in kept.values() for line in content.splitlines())
    second = forge.run(*arguments, "--json")
    assert second.code == 0, second.err
    outcome = json.loads(second.out.splitlines()[-1])
    assert outcome["new"] < outcome["images"] and outcome["shards"] > len(kept)
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_a_stopped_server_has_answered_everybody_and_ends_with_0(forge, whole):
    server = forge.start("serve", "--workspace", whole, "--port", "0")
    server.says("embedded server ready")
    server.signal(signal.SIGTERM)
    assert server.wait(15) == 0


# -- damaged ----------------------------------------------------------------------------------------------------------


def test_examples_that_are_gone_or_damaged_are_made_again(forge, data, tmp_path):
    def run_until_statistics():
        run = forge.start(*run_arguments(data, tmp_path))
        run.says("Computing statistics")
        run.signal(signal.SIGKILL)
        run.wait()
        newest = max((tmp_path / "pipeline/HandwritingExampleGen/examples").iterdir(), key=lambda path: int(path.name))
        return states(tmp_path)["HandwritingExampleGen"], next(newest.glob("Split-train/*"))

    state, file = run_until_statistics()
    assert state == "COMPLETE"
    assert run_until_statistics() == ("CACHED", file)
    os.truncate(file, file.stat().st_size - 1)
    for damage in (os.remove, lambda path: shutil.rmtree(path.parents[1]), None):
        state, again = run_until_statistics()
        assert state == "COMPLETE" and again != file
        file = again
        if damage:
            damage(file)
    assert run_until_statistics() == ("CACHED", file)


def test_a_damaged_version_is_pushed_again_with_a_greater_number_although_the_clock_is_behind(forge, data, whole):
    """And the run of the same second of the same clock overwrites neither report nor log."""
    first = summary.read_all(str(whole), "htr")[-1]
    (before,) = numbers(whole)
    files = {path: path.read_bytes() for kind in ("reports", "logs") for path in (whole / kind).iterdir()}
    shutil.rmtree(model_dir(whole) / str(before) / "variables")
    moment = datetime.datetime.fromisoformat(first.run_id).timestamp()
    done = forge.run(*run_arguments(data, whole), clock=moment)
    assert done.code == 0, done.err
    assert done_by(whole) == {"Pusher"}
    assert numbers(whole) == [before, before + 1]
    exported = next((whole / "pipeline/LanguageModel/model").glob("*/Format-Serving"))
    assert storage.digest(str(exported)) == storage.digest(str(model_dir(whole) / str(before + 1)))
    assert all(path.read_bytes().startswith(content) for path, content in files.items())
    names = [run.name for run in summary.read_all(str(whole), "htr")]
    assert len(set(names)) == len(names) and len(list((whole / "reports").iterdir())) > 1

    # A version that was withdrawn is not damaged. It comes back by a command only, and the next run notices.
    publishing.roll_back(str(model_dir(whole)))
    for steps in ({"Pusher"}, set()):
        done = forge.run(*run_arguments(data, whole))
        outcome = json.loads(done.out)
        assert (done.code, outcome["version"], outcome["withdrawn_version"]) == (0, None, before + 1)
        assert done_by(whole) == steps and numbers(whole) == [before]
    publishing.restore(str(model_dir(whole)), before + 1)
    for steps in ({"Pusher"}, set()):
        outcome = json.loads(forge.run(*run_arguments(data, whole)).out)
        assert (outcome["version"], outcome["withdrawn_version"]) == (before + 1, None)
        assert done_by(whole) == steps and numbers(whole) == [before, before + 1]


@pytest.mark.parametrize("kind", ["garbage", "truncated", "empty", "missing"])
def test_damaged_metadata_is_named_and_left_alone(kind, forge, data, whole, tmp_path):
    database = tmp_path / "metadata.db"
    (tmp_path / "pipeline" / "Trainer").mkdir(parents=True)
    good = (whole / "metadata.db").read_bytes()
    content = {"garbage": b"\x07" * 5000, "truncated": good[: len(good) // 2], "empty": b"", "missing": None}[kind]
    if content is not None:
        database.write_bytes(content)
    for command in (run_arguments(data, tmp_path), ["runs", "--workspace", tmp_path]):
        message = assert_readable(forge.run(*command))
        assert str(database) in message and "aside" in message and "Nothing was changed" in message
        assert (database.read_bytes() if database.exists() else None) == content


# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(walled_forge, whole):
    """The workspace `whole` on a disk of 24 MB, for the processes of `walled_forge`; its folder as seen from here."""
    walled_forge.ask(mount=["-t", "tmpfs", "-o", "size=24m", "none", str(whole)])
    seen = Path(f"/proc/{walled_forge.process.pid}/root{whole}")
    shutil.copytree(whole, seen, dirs_exist_ok=True)
    return seen


def test_full_and_read_only_disks(walled_forge, data, whole, small_disk, tmp_path):
    arguments = run_arguments(data, whole, "train.seed=7", "gate.max_cer_increase=null")

    def fails(*named, command=arguments):
        message = assert_readable(walled_forge.run(*command))
        assert all(str(text) in message for text in ("Free are", *named)), message
        return message

    def seen_states():
        shutil.copy(small_disk / "metadata.db", tmp_path)  # SQLite would follow the link out of the namespace
        return states(tmp_path)

    before = numbers(small_disk)
    with open(small_disk / "balloon", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free)
    fails(whole)
    (small_disk / "balloon").unlink()

    pushed = whole / "serving_model" / "htr"
    places = {
        "Trainer": (whole / "pipeline" / "checkpoints", "16k"),
        "Pusher": (pushed, "128k"),
    }
    for folder, size in places.values():
        walled_forge.ask(mount=["-t", "tmpfs", "-o", f"size={size}", "none", str(folder)])
    for step, (folder, _) in places.items():
        assert "same command again" in fails(pushed if step == "Pusher" else whole)
        assert list(seen_states().items())[-1] == (step, "FAILED")
        assert not numbers(small_disk) and not list(model_dir(small_disk).glob(".incoming-*"))
        walled_forge.ask(mount=["-o", "remount,size=8m", str(folder)])
    done = walled_forge.run(*arguments)
    assert done.code == 0, done.err
    assert {name for name, state in seen_states().items() if state == "COMPLETE"} == NEVER_CACHED | {"Pusher"}
    assert len(numbers(small_disk)) == 1 and numbers(small_disk) != before

    examples = whole / "pipeline" / "HandwritingExampleGen" / "examples"
    walled_forge.ask(mount=["-t", "tmpfs", "-o", "size=64k", "none", str(examples)])
    other_examples = run_arguments(data, whole, "data.split_salt=another")
    assert "same command again" in fails(whole, command=other_examples)
    assert seen_states() == {"HandwritingExampleGen": "FAILED"}
    walled_forge.ask(mount=["-o", "remount,size=8m", str(examples)])
    again = walled_forge.start(*other_examples)
    again.says("Computing statistics")
    again.signal(signal.SIGKILL)
    again.wait()
    assert seen_states()["HandwritingExampleGen"] == "COMPLETE"

    walled_forge.ask(mount=["-o", "remount,ro", str(whole)])
    message = assert_readable(walled_forge.run(*arguments))
    assert str(whole) in message and "Read-only file system" in message
    assert walled_forge.run("runs", "--workspace", whole).code == 0


# -- changed code -----------------------------------------------------------------------------------------------------


@pytest.fixture
def other_tree(tmp_path):
    """A copy of this repository's packages."""
    for name in ("components", "pipeline", "serving"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / "client" / "htr_client", tmp_path / "htr_client")
    return tmp_path


def test_changed_code_runs_again_what_depends_on_it_and_only_that(other_tree, data, whole):
    with open(other_tree / "components" / "report" / "card.py", "a") as file:
        file.write("# changed\n")
    command = [sys.executable, "-m", "pipeline.cli", *map(str, run_arguments(data, whole))]
    environment = {**os.environ, "PYTHONPATH": str(other_tree)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=other_tree, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done_by(whole) == {"RunReport", "Pusher"}


# -- replaced ----------------------------------------------------------------------------------------------------------


def test_a_model_that_another_has_replaced_is_pushed_again(forge, data, whole):
    """Settings A and B by turns: each run leaves its own model in service, though its training is cached."""
    any_cer = "gate.max_cer_increase=null"
    exported = {}
    for name, seed in (("b", ["train.seed=8"]), ("a", []), ("b", ["train.seed=8"])):
        done = forge.run(*run_arguments(data, whole, any_cer, *seed))
        assert done.code == 0, done.err
        assert "Pusher" in done_by(whole) and ("Trainer" in done_by(whole)) == (not exported)
        served = storage.digest(str(model_dir(whole) / str(numbers(whole)[-1])))
        assert exported.setdefault(name, served) == served
    assert exported["a"] != exported["b"]
