"""The command line without training: quick start, exit codes, readable errors."""

import argparse
import functools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys

import pytest
import yaml

import htr_client
from pipeline import cli
from pipeline.commands.common import read_config
from pipeline.commands.options import write_output
from tests.conftest import drawn_image, encode, write_dataset

HEAVY = ("tfx", "tensorflow", "apache_beam", "keras")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "read",
        "predict",
        "serve",
        "check",
        "report",
        "runs",
        "compare",
        "drift",
        "review",
        "run",
        "versions",
        "import",
        "promote",
        "rollback",
        "doctor",
        "sample-data",
    ],
)
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom pipeline import cli\n"
        f"try: cli.main({[*command.split(), '--help']!r})\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: htr" in done.stdout


def test_check_and_predict_import_no_tfx(tmp_path):
    write_dataset(tmp_path, [{"filename": "a.png", "text": "ab"}])
    code = (
        "import sys\nfrom pipeline import cli\n"
        f"cli.main(['check', '--data', {str(tmp_path)!r}])\n"
        f"image = {str(tmp_path / 'a.png')!r}\n"
        "cli.main(['predict', image, '--server', 'localhost:1', '--patience', '0', '--timeout', '1'])\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_command_ends_without_going_through_all_that_it_has_imported(tmp_path):
    """Which takes seconds, once TFX and TensorFlow have been."""
    code = (
        "import atexit, gc, sys\natexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
        "from pipeline import cli\nsys.exit(cli.main())\n"
    )
    command = [sys.executable, "-c", code, "versions", "--workspace", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[-1] == "True"


def test_no_command_at_all_shows_what_there_is(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([])
    told = capsys.readouterr()
    assert end.value.code == cli.USAGE and told.out == ""
    assert "transcribe" in told.err and "--version" in told.err


def test_version_is_the_clients(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"htr {htr_client.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["chek"], "check"),
        (["transcibe"], "transcribe"),
        (["run", "--dta", "names"], "--data"),
        (["serve", "--prot=8500"], "--port"),
        (["promote", "5", "--label", "stabel"], "stable"),
        (["compile", "kubeflo", "htr.yaml"], "kubeflow"),
        (["run", "."], "--data ."),
    ],
)
def test_typos_in_commands_and_options_are_told_what_was_meant(arguments, meant, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == cli.USAGE
    assert f"did you mean {meant}?" in capsys.readouterr().err


HTR = [sys.executable, "-m", "pipeline.cli"]


@pytest.mark.parametrize("source", ["-", "/dev/stdin", "run.yaml"])
def test_printed_configuration_is_what_the_next_command_reads(tmp_path, source):
    write_dataset(tmp_path / "names", [{"filename": f"{i}.png", "text": "ab"} for i in range(20)])
    run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
    printed = run([*HTR, "config", "--data", "names", "--set", "push.model_dir=models", "--set", "gate.max_cer=0.07"])
    assert printed.returncode == 0 and str(tmp_path) not in printed.stdout
    settings = yaml.safe_load(printed.stdout)
    assert settings["data"]["paths"] == ["names"] and settings["workspace"] == "workspace"
    assert settings["push"]["model_dir"] == "models"
    (tmp_path / "run.yaml").write_text(printed.stdout)
    checked = run([*HTR, "check", "--config", source], input=printed.stdout if source != "run.yaml" else None)
    assert checked.returncode == 0 and "20 rows in" in checked.stdout, checked.stderr
    again = run([*HTR, "config", "--config", source], input=printed.stdout if source != "run.yaml" else None)
    assert again.stdout == printed.stdout


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    command = f"{shlex.join(HTR)} config | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout in ("0\n", "141\n") and done.stderr == ""
    # `true` may come too late to close the pipe first; here it is closed for certain.
    code = f"import os, sys; os.close(0); from pipeline import cli; sys.exit(cli.main({['config']!r}))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_that_cannot_be_written_ends_as_other_output(arguments):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*HTR, *arguments], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*HTR, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "\nerror: [Errno 28] No space left on device\n")


def test_ctrl_c_before_the_command_has_begun(monkeypatch, capsys):
    monkeypatch.setattr("pipeline.commands.run.add_commands", lambda add: signal.raise_signal(signal.SIGINT))
    assert cli.main(["config"]) == 130
    assert capsys.readouterr() == ("", "\nInterrupted.\n")


@pytest.mark.parametrize("command", ["config", "run"])
def test_settings_from_a_closed_standard_input_are_refused(command):
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join([*HTR, command, '--config', '-'])} 0<&-"], capture_output=True, text=True
    )
    assert done.returncode == cli.USAGE
    assert done.stderr == "\nerror: cannot read the configuration standard input: it is closed\n"


def test_check_counts_what_is_accepted_and_rejected(sample_data, tmp_path, capsys):
    rejects = tmp_path / "rejects.csv"
    assert cli.main(["check", "--data", str(sample_data), "--rejects", str(rejects)]) == 0
    out = capsys.readouterr().out
    assert "240 rows" in out and "accepted for train" in out and "rejected: missing_file" in out
    assert len(rejects.read_text().splitlines()) == 1 + 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "No data folder given"),
        (["run", "--data", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["check", "--data", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["run", "--data", ".", "--set", "train.epocs=3"], "train.epocs: no such setting"),
        (["run", "--data", ".", "--config", "/nowhere.yaml"], "cannot read the configuration"),
        (["check", "--data", ".", "--html", "/nowhere/at/all.html"], "--html /nowhere/at/all.html: there is no folder"),
        (["check", "--data", ".", "--rejects", "/nowhere/r.csv"], "--rejects /nowhere/r.csv: there is no folder"),
        (["check", "--data", ".", "--html", "/"], "--html / is a folder. Name a file in it."),
        (
            ["transcribe", "--model", ".", "--input", "/nowhere", "--output", "x.csv"],
            "--input: /nowhere does not exist",
        ),
        (
            ["transcribe", "--model", "/nowhere", "--input", ".", "--output", "x.csv"],
            "--model: /nowhere is neither a version of a model nor a directory with versions, and",
        ),
        (["serve", "--set", "push.model_dir=gs://bucket/htr"], "gs://bucket/htr is in a bucket"),
        (["check", "--data", "https://example.org/names"], "is an address of the web, where nothing lists a folder."),
        (["doctor", "--seconds", "3"], "--seconds goes with --gpu."),
        (["doctor", "--device", "cpu", "--json"], "--device goes with --gpu."),
        (["transcribe", "--input", ".", "--output", "/proc/x.csv"], "--output /proc/x.csv cannot be written: No such"),
        (["compile", "airflow", __file__], "test_cli.py is a file. Name Airflow's folder of DAGs."),
    ],
)
def test_wrong_usage_is_one_readable_paragraph_and_code_2(arguments, message, capsys):
    assert cli.main(arguments) == cli.USAGE
    error = capsys.readouterr().err
    assert message in error and error.strip().startswith("error:") and "Traceback" not in error


@pytest.mark.parametrize("command", [["compile", "airflow", "dags"], ["import", ".", "--output", "/nowhere/lines"]])
def test_a_log_that_cannot_be_written_says_where_else_it_can_lie(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main([*command, "--workspace", str(tmp_path / "file")]) == cli.ERROR
    error = capsys.readouterr().err
    assert f"The log {tmp_path}/file/logs/" in error and "Not a directory. --workspace DIR names another" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"scan,words\nx,y\n", "no column for image"),
        (b"filename,says\nx,y\n", "no column for text"),
    ],
)
def test_unusable_csv_is_named(tmp_path, capsys, content, message):
    (tmp_path / "labels.csv").write_bytes(content)
    for command in ("run", "check"):
        assert cli.main([command, "--data", str(tmp_path), "--workspace", str(tmp_path / "w")]) == cli.USAGE
        error = capsys.readouterr().err
        assert message in error and "labels.csv" in error
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            ["1.jpg", "page/1.xml"],
            "XML files, such as {}/page/1.xml. If these are pages with PAGE XML or ALTO, `htr import",
        ),
        (["doc/page/1.xml"], "`htr run --task pages --data {}` trains a line finder."),
        (["b/2.png", ".1.xml"], "images, such as {}/b/2.png. List these in a .csv with the columns filename and text;"),
        (["a.png", "readme.txt"], "transcribes them.\n"),
        (["b/2.png", "labels.txt"], "transcribes them. Labels in {}/labels.txt are not read: save them as such a .csv"),
        (["labels.xlsx", "1.xml"], "labels.xlsx is a workbook: open it and save it"),
        (["notes.txt"], "holds no .csv or .tsv file with labels.\n"),
    ],
)
def test_a_folder_without_label_files_says_what_to_do_with_it(tmp_path, capsys, files, told):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert cli.main(["check", "--data", str(tmp_path)]) == cli.USAGE
    error = capsys.readouterr().err
    assert f"{tmp_path} holds no .csv or .tsv file with labels." in error and told.format(tmp_path) in error


@pytest.mark.parametrize("task", ["text", "pages"])
@pytest.mark.parametrize("setting", ["gate.max_cer=5", "gate.max_cer=2024-13-01", "name=htr"])
def test_a_run_that_is_refused_before_its_first_step_is_one_json_line_too(tmp_path, capsys, task, setting):
    arguments = ["run", "--task", task, "--data", str(tmp_path / "nowhere"), "--set", setting, "--json"]
    assert cli.main(arguments) == cli.USAGE
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["blessed"], told["exit_code"]) == (False, cli.USAGE)
    assert ("gate.max_cer" if "gate" in setting else "nowhere") in told["error"] and told["error"] in err


def test_an_error_that_names_a_file_whose_name_is_not_utf8_is_told(tmp_path, capfd, monkeypatch):
    def fail(config):
        raise RuntimeError(os.fsdecode(b"m\xfcller.xml is odd"))

    monkeypatch.setattr("pipeline.runners.local_runner.run", fail)
    rows = [{"filename": f"{number}.png", "text": "ab"} for number in range(30)]
    data, workspace = write_dataset(tmp_path / "names", rows), tmp_path / "workspace"
    assert cli.main(["run", "--data", str(data), "--workspace", str(workspace), "--json"]) == cli.ERROR
    out, err = capfd.readouterr()
    assert "Traceback" not in err and "ller.xml is odd" in json.loads(out)["error"]
    (log,) = (workspace / "logs").glob("run-*.log")
    assert "m\\udcfcller.xml is odd" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [["runs"], ["report"], ["run", "--data", "."], ["versions"]])
def test_a_workspace_that_is_not_utf8_is_refused(command, capsys):
    assert cli.main([*command, "--workspace", os.fsdecode(b"m\xfcller")]) == cli.USAGE
    error = capsys.readouterr().err
    assert r"m\udcfcller' is not UTF-8" in error and "--workspace" in error


def test_no_versions_yet(tmp_path, capsys):
    assert cli.main(["versions", "--workspace", str(tmp_path)]) == cli.ERROR
    assert cli.main(["rollback", "--workspace", str(tmp_path)]) == cli.ERROR
    assert capsys.readouterr().err.count(f"yet: htr run --workspace {tmp_path} first.") == 2


@pytest.mark.parametrize("command", [["report"], ["runs"], ["compare", "latest", "latest"]])
def test_no_run_yet(tmp_path, command, capsys):
    assert cli.main([*command, "--workspace", str(tmp_path)]) == cli.ERROR
    assert capsys.readouterr().err == f"\nerror: {tmp_path} holds no run yet.\n"


@pytest.mark.parametrize("folder", [None, "serving_model/words", "serving_model/words/.withdrawn-3"])
def test_serve_without_a_version_ends_at_once(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.setattr("components.base_model.packing.FOLDER", tmp_path / "nothing is shipped")
    if folder is not None:
        (tmp_path / folder).mkdir(parents=True)
    assert cli.main(["serve", "--workspace", str(tmp_path), "--set", "name=words"]) == cli.ERROR
    error = capsys.readouterr().err
    if folder is not None and "withdrawn" in folder:
        assert f"All versions in {tmp_path}/serving_model/words are withdrawn" in error
    else:
        assert f"No version has been pushed to {tmp_path}/serving_model/words yet: htr run first" in error


@pytest.mark.parametrize(
    ("settings", "name", "model_dir"),
    [
        ([], "htr", "workspace/serving_model/htr"),
        (["--set", "name=words"], "words", "workspace/serving_model/words"),
        (["--set", "name=words", "--set", "push.model_dir=models"], "words", "models"),
        (["--model_name", "other"], "other", "workspace/serving_model/htr"),
    ],
)
def test_serve_finds_what_the_same_settings_push(tmp_path, monkeypatch, settings, name, model_dir):
    monkeypatch.chdir(tmp_path)
    (tmp_path / model_dir / "1").mkdir(parents=True)
    served = []
    monkeypatch.setattr("serving.server.run", lambda arguments: served.append(arguments) or 0)
    assert cli.main(["serve", *settings]) == 0
    assert [(found.model_name, found.model_base_path) for found in served] == [(name, str(tmp_path / model_dir))]


def test_serve_refuses_a_precision_that_there_is_not(tmp_path, monkeypatch, capsys):
    (tmp_path / "serving_model" / "htr" / "1").mkdir(parents=True)
    served = []
    monkeypatch.setattr("serving.server.run", lambda arguments: served.append(arguments.mixed_precision) or 0)
    command = ["serve", "--workspace", str(tmp_path)]
    assert cli.main([*command, "--mixed_precision=float16"]) == cli.USAGE and not served
    assert "--mixed_precision=float16: the one permitted value is bfloat16" in capsys.readouterr().err
    assert [cli.main(command), cli.main([*command, "--mixed_precision=bfloat16"])] == [0, 0]
    assert served == ["", "bfloat16"]


@pytest.mark.parametrize("taken", [True, False])
def test_serve_that_cannot_start_ends_with_a_documented_code(tmp_path, taken):
    (tmp_path / "serving_model" / "htr" / "1").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1] if taken else 2**16
        command = [sys.executable, "-m", "pipeline.cli", "serve", "--workspace", str(tmp_path), f"--port={port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == (cli.ERROR if taken else cli.USAGE) and "Traceback" not in done.stderr
    what = f"cannot listen on 127.0.0.1:{port}: Address already in use" if taken else f"--port={port}: ports end at"
    assert f"error: The server could not start: {what}" in done.stderr
    assert "starting: TensorFlow is loaded first" in done.stderr, "half a minute without a word"


def test_paths_are_absolute_since_steps_run_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    here, archives = str(tmp_path), "[client.tar.gz, gs://bucket/client.tar.gz]"
    settings = {
        "data.paths": ("[names]", [f"{here}/names"]), "bulk.folder": ("/mnt/new", "/mnt/new"),
        "train.warm_start": ("htr/7", f"{here}/htr/7"), "push.model_dir": ("../models", f"{tmp_path.parent}/models"),
        "beam.setup_file": ("setup.py", f"{here}/setup.py"),
        "language.texts": ("[~/texts]", [f"{here}/home/texts"]), "pages.model_dir": ("~/htr", f"{here}/home/htr"),
        "line_gate.recogniser": ("./~/htr", f"{here}/~/htr"),
        "beam.extra_packages": (archives, [f"{here}/client.tar.gz", "gs://bucket/client.tar.gz"]),
    }  # fmt: skip
    overrides = [f"{name}={given}" for name, (given, _) in settings.items()]
    monkeypatch.setenv("HOME", f"{here}/home")  # no shell expands what stands in a file or behind `name=`
    config = read_config(argparse.Namespace(config=None, set=overrides, workspace="~/work"))
    assert config.workspace == f"{here}/home/work"
    for name, (_, expected) in settings.items():
        section, setting = name.split(".")
        assert getattr(getattr(config, section), setting) == expected
    assert cli.main(["config", "--set=push.model_dir=gs://bucket/models/htr"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["push"]["model_dir"] == "gs://bucket/models/htr"


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(cli.CommandError):
        cli.main(["--debug", "run", "--data", str(tmp_path)])


def test_the_option_of_version_0_1_still_counts_images(tmp_path, capsys):
    assert cli.main(["sample-data", str(tmp_path / "data"), "--pictures", "30"]) == cli.OK
    assert capsys.readouterr().out.startswith("30 rows in ")


def test_sample_data_refuses_a_folder_with_something_in_it(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep me")
    assert cli.main(["sample-data", str(tmp_path)]) == cli.USAGE
    assert (tmp_path / "mine.txt").exists()


def test_an_error_of_the_system_names_the_file_first(capsys):
    assert cli.main(["sample-data", "/proc/x"]) == cli.ERROR
    assert capsys.readouterr().err == "\nerror: /proc/x: No such file or directory\n"


def test_check_suggests_more_frames_for_crowded_labels(tmp_path, capsys):
    crowded = [{"filename": f"{i}.png", "text": "Johannes Gutenberg"} for i in range(20)]  # 120 x 40 pixels
    write_dataset(tmp_path / "crowded", crowded)
    write_dataset(tmp_path / "roomy", [{**row, "text": "Johannes"} for row in crowded])
    for name, suggested in (("crowded", True), ("roomy", False)):
        assert cli.main(["check", "--data", str(tmp_path / name)]) == 0
        assert ("--set transform.preset=line" in capsys.readouterr().out) == suggested


def test_check_tells_before_its_work_that_a_file_cannot_be_written(tmp_path, capsys):
    folder = write_dataset(tmp_path, [{"filename": f"{i}.png", "text": "ab"} for i in range(20)])
    assert cli.main(["check", "--data", str(folder), "--rejects", "/proc/x.csv"]) == cli.ERROR
    said = capsys.readouterr()
    assert "--rejects /proc/x.csv cannot be written: " in said.err and "rows in" not in said.out
    assert cli.main(["check", "--data", str(folder), "--rejects", "/dev/null"]) == cli.OK


def test_check_ends_as_the_run_that_it_says_would_stop(tmp_path, capsys):
    write_dataset(tmp_path, [{"filename": f"{i}.png", "text": "ab", "split": "test"} for i in range(20)])
    assert cli.main(["check", "--data", str(tmp_path)]) == cli.USAGE
    assert "No image falls into train and validation: the run would stop." in capsys.readouterr().err


def test_check_gives_the_sizes_that_image_files_have(tmp_path, capsys):
    folder = write_dataset(tmp_path / "data", [{"filename": f"{i}.png", "text": "ab"} for i in range(20)])
    for image in folder.glob("*.png"):
        image.write_bytes(encode(drawn_image(1500, 600)))
    page = tmp_path / "check.html"
    assert cli.main(["check", "--data", str(folder), "--html", str(page)]) == cli.OK
    row = page.read_text().partition("<td>median height</td>")[2].partition("</tr>")[0]
    assert row.count(">600<") == 3


def test_versions_of_others_need_not_be_times(tmp_path, capsys):
    for number in (20240101123000, 1700000000):
        folder = tmp_path / "serving_model" / "htr" / str(number)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"")
    assert cli.main(["versions", "--workspace", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "20240101123000" in out and "2023-11-1" in out


def test_a_program_that_is_missing_is_named():
    command = [sys.executable, "-m", "components.common.stopping", "tensorflow_model_server_of_nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "tensorflow_model_server_of_nowhere cannot be run: No such file or directory" in done.stderr


def test_runs_of_airflow_have_names_of_their_own():
    from components.report.summary import RunSummary

    ids = ("2026-05-04T10:12:31.123456", "scheduled__2026-11-23T00:00:00+00:00", "manual__2026-11-23T10:12:31.5+00:00")
    names = [RunSummary(run_id=run, steps=[], seconds=0.0, counts={}).name for run in ids]
    assert names == ["2026-05-04T10:12:31", "scheduled__2026-11-23T00:00:00", "manual__2026-11-23T10:12:31"]


def test_a_store_that_cannot_be_written_says_why():
    with pytest.raises(cli.CommandError, match=r"--prometheus nosuch://x/runs\.prom cannot be written: nosuch://"):
        write_output("--prometheus", "nosuch://x/runs.prom", "")
