"""Settings that would fail late are refused before the first step, by every command that begins a run."""

import errno
import json
import os
import re
import tempfile
from unittest.mock import Mock

import pytest

from components.base_model import packing
from components.common.settings import ConfigError
from components.example_gen import dataset
from components.example_gen.folders import find_tables
from components.example_gen.plan import make_plan
from components.example_gen.settings import DataConfig
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from components.line_finder.warm_start import find_start
from components.trainer.warm_start import WarmStartError
from pipeline import cli, preflight
from pipeline.config import Config, load
from serving.version_directory import SETTINGS_FILE
from tests.conftest import write_dataset

WRITERS = [f"w{number}" for number in range(40)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = [{"filename": f"{n}.png", "text": "ab", "writer": WRITERS[n % len(WRITERS)]} for n in range(80)]
    return write_dataset(tmp_path_factory.mktemp("preflight") / "names", rows)


@pytest.fixture(scope="module")
def evaluated(data):
    """Writers of the evaluation split, as the pipeline draws it."""
    samples = dataset.examine_all(DataConfig(paths=[str(data)]), Config().transform)
    return sorted({sample.writer for sample in samples if sample.split == "eval"})


@pytest.fixture
def version(tmp_path):
    """A version as far as it can be known without TensorFlow: its number, its settings, that there is a graph."""
    path = tmp_path / "models" / "1795361526"
    settings = path / SETTINGS_FILE
    settings.parent.mkdir(parents=True)
    (path / "saved_model.pb").touch()
    sections = {name: json.loads(getattr(Config(), name).model_dump_json()) for name in ("model", "transform")}
    settings.write_text(json.dumps({"alphabet": ["a"], **sections}))
    return path


def refused(command, data, workspace, capsys, *settings):
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    code = cli.main([command, "--data", str(data), "--workspace", str(workspace), *arguments])
    error = capsys.readouterr().err
    assert code == cli.USAGE and "error:" in error and "Traceback" not in error and not workspace.exists()
    return error


def test_a_damaged_base_model_is_named_instead_of_passed_over(data, tmp_path, capsys, monkeypatch):
    for preset in ("word", packing.PAGES):
        (tmp_path / "files" / preset).mkdir(parents=True)
        (tmp_path / "files" / preset / "base.json").write_text('{"version": 1, "files": {"saved_model.pb": 1}}')
        (tmp_path / "files" / preset / "version.zip").write_bytes(b"no archive")
    monkeypatch.setattr(packing, "FOLDER", tmp_path / "files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "files/word is damaged" in refused("run", data, tmp_path / "w", capsys)
    with pytest.raises(packing.BaseModelError, match="files/pages is damaged"):
        find_start(LineTrainingConfig(), LineFinderConfig())


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.warm_start={nowhere}", "train.warm_start: {nowhere} is neither a version .* and does not exist"),
        ("train.warm_start={data}", "train.warm_start: {data} is neither a version"),
        ("train.freeze=[recurrent] train.warm_start=none", "train.freeze: recurrent would keep the random weights"),
        ("push.model_dir={data}/0.png/models", "push.model_dir: .* since {data}/0.png is not one"),
        ("push.server_command=[no-such-server]", "push.server_command: there is no program no-such-server"),
        ("bulk.folder={nowhere}", "bulk.folder: {nowhere} does not exist"),
        ("name=htr-lines", "name: htr-lines is the name of the line finder"),
        ("data.alphabet=''", "data.alphabet: it is empty"),
        ('data.alphabet="a\\tb"', r"data.alphabet: '\\t' cannot be in a label"),
        ("beam.runner=flink", "needs beam.address"),
        ("beam.runner=dask", "beam.runner=dask needs beam.address: .* Dask's tcp://host:port"),
        ("beam.setup_file={nowhere}", "beam.setup_file: {nowhere} does not exist"),
        ("gate.slice_max_cer={{writer=nobody: 0.2}}", "writer=nobody: no image of this writer is in the evaluation"),
        ("gate.slice_max_cer={{length_band=2: 0.2}}", "length_band=2: no image of this length band .* has <=04"),
        ("gate.slice_max_cer={{source=name: 0.2}}", "source=name: .*did you mean names"),
    ],
)
def test_what_would_fail_late_is_refused_at_once(command, setting, message, data, tmp_path, capsys):
    places = {"nowhere": tmp_path / "nowhere", "data": data}
    settings = re.split(r" (?=train\.)", setting.format(**places))
    error = refused(command, data, tmp_path / "w", capsys, *settings)
    assert re.search(message.format(**places), error), error


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ('{"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}}', "TF_CONFIG: it names 3 training workers"),
        ("chief", "TF_CONFIG: it is no JSON that describes training workers"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}', None),
    ],
)
def test_several_workers_do_not_train_within_one_run(workers, message, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", workers)
    error = refused("run", data, tmp_path / "w", capsys, f"bulk.folder={tmp_path}/nowhere")
    assert message in error if message else "TF_CONFIG" not in error


@pytest.mark.parametrize(
    "task, given, named",
    [
        ("pages", ["train.epochs=3", "data.limit=5", "data.eval_fraction=0.2"], "data.limit, train.epochs"),
        ("text", ["line_training.epochs=3", "pages.document=folder", "train.epochs=3"],
         "line_training.epochs, pages.document"),
    ],
)  # fmt: skip
def test_settings_that_the_task_does_not_use_are_named(task, given, named, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    error = refused("run", tmp_path / "empty", tmp_path / "workspace", capsys, f"task={task}", *given)
    assert f"Warning: task={task} does not use {named}\n" in error


@pytest.mark.parametrize(
    "given, told",
    [
        (["tune.epochs=3"], "tune.epochs has no effect with tune.trials=0"),
        (["tune.epochs=3", "tune.trials=2"], None),
        (["train.augment=0", "train.clean_statistics=0.5"],
         "train.clean_statistics has no effect with train.augment=0"),
        (["train.warm_start=none", "train.start_share=0.1", "train.keep_characters=false"],
         "train.start_share, train.keep_characters have no effect with train.warm_start=null"),
        (["language.enabled=false", "language.order=4"], "language.order has no effect with language.enabled=false"),
        (["language.enabled=false", "language.texts=[places.txt]"],
         "language.texts has no effect with language.enabled=false"),
        (["bulk.kind=page", "bulk.format=alto", "bulk.batch_size=3", "bulk.decoder=best_path", "bulk.bfloat16=true"],
         "bulk.kind, bulk.format, bulk.batch_size, bulk.decoder, bulk.bfloat16 have no effect with bulk.folder=null"),
        (["bulk.line_finder=lines"], "bulk.line_finder has no effect with bulk.folder=null"),
        (["bulk.folder=new", "bulk.line_finder=lines"], "bulk.line_finder has no effect with bulk.kind=\"line\""),
        (["bulk.folder=new", "bulk.kind=page", "bulk.line_finder=lines", "bulk.format=alto"], None),
    ],
)  # fmt: skip
def test_settings_that_another_one_switches_off_are_named(given, told, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    error = refused("run", tmp_path / "empty", tmp_path / "workspace", capsys, *given)
    assert error.count(" no effect with ") == bool(told) and (not told or f"Warning: {told}\n" in error)


def test_a_bound_for_a_writer_of_another_split_names_those_of_the_right_one(data, evaluated, tmp_path, capsys):
    trained = next(writer for writer in WRITERS if writer not in evaluated)
    error = refused("run", data, tmp_path / "w", capsys, f"gate.slice_max_cer={{writer={trained}: 0.2}}")
    assert f"writer={trained}: no image" in error and ", ".join(evaluated) in error
    tables, _ = find_tables(DataConfig(paths=[str(data)]))
    plan = make_plan(tables, DataConfig(paths=[str(data)]))
    bounds = {f"writer={writer}": 0.2 for writer in evaluated} | {"writer": 0.3, "length_band=<=04": 0.2}
    preflight.check_run(load(None, gate={"slice_max_cer": bounds}, workspace=str(tmp_path)), tables, plan)


def test_a_bound_for_writers_needs_writers(tmp_path, capsys):
    data = write_dataset(tmp_path / "data", [{"filename": f"{n}.png", "text": "ab"} for n in range(20)])
    error = refused("check", data, tmp_path / "w", capsys, "gate.slice_max_cer={writer: 0.2}")
    assert "the data does not say who wrote what" in error


def test_all_that_is_wrong_is_said_together(data, tmp_path, capsys):
    nothing = ("train.freeze=[recurrent]", "train.warm_start=none", f"bulk.folder={tmp_path}/nowhere")
    error = refused("run", data, tmp_path / "w", capsys, *nothing)
    assert "train.freeze" in error and "bulk.folder" in error


def test_a_base_with_other_layers_is_refused_by_name(data, version, tmp_path, capsys):
    for start in (version, version.parent):
        settings = (f"train.warm_start={start}", "model.recurrent_units=64", "model.dropout=0.1")
        error = refused("run", data, tmp_path / "w", capsys, *settings)
        assert f"{version} has another network: model.recurrent_units is 64 here" in error
        assert "--set model.recurrent_units='128'" in error and "dropout" not in error
    tables, _ = find_tables(DataConfig(paths=[str(data)]))
    plan = make_plan(tables, DataConfig(paths=[str(data)]))
    config = load(None, [f"train.warm_start={version.parent}", "train.freeze=[convolutions]"], workspace=str(tmp_path))
    preflight.check_run(config, tables, plan)
    (version / SETTINGS_FILE).write_text("{}")
    with pytest.raises(ConfigError, match="does not hold the settings of a model"):
        preflight.check_run(config, tables, plan)
    with pytest.raises(WarmStartError, match=r"line_training\.warm_start: .* is no line finder, but a model that"):
        find_start(LineTrainingConfig(warm_start=str(version)), LineFinderConfig())
    (version / SETTINGS_FILE).write_text('{"line_finder": {}}')
    with pytest.raises(ConfigError, match=r"train\.warm_start: .* is a line finder, which does not transcribe"):
        preflight.check_run(config, tables, plan)


def test_the_line_finder_for_a_folder_of_new_images_is_looked_at_before_the_training(data, version, tmp_path):
    tables, _ = find_tables(DataConfig(paths=[str(data)]))
    plan = make_plan(tables, DataConfig(paths=[str(data)]))

    def check(finder):
        new = [f"bulk.folder={data}", "bulk.kind=page", f"bulk.line_finder={finder}"]
        preflight.check_run(load(None, new, workspace=str(tmp_path / "w")), tables, plan)

    with pytest.raises(ConfigError, match=rf"bulk\.line_finder: {version} is no line finder, but a model that"):
        check(version)
    (version / SETTINGS_FILE).write_text('{"line_finder": {}}')
    check(version)
    check(version.parent)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_model_directory_that_cannot_be_written_is_refused(data, tmp_path, capsys):
    (tmp_path / "models").mkdir(mode=0o555)
    error = refused("check", data, tmp_path / "w", capsys, f"push.model_dir={tmp_path}/models/htr")
    assert f"push.model_dir: {tmp_path}/models/htr cannot be written" in error


KUBEFLOW = ["data.paths=[/data/names]", "push.model_dir=/models/htr", "kubeflow.volumes={htr-models: /models}"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("kubeflow.pipeline_root=relative/x", "kubeflow.pipeline_root: 'relative/x' is no address in an object store"),
        ("kubeflow.pipeline_root=s3:/bucket", "kubeflow.pipeline_root"),
        ("kubeflow.pipeline_root=gs://bucket/htr?endpoint=minio:9000", "which only s3:// and minio:// have"),
        ("kubeflow.stage_artifacts=false", "stage_artifacts: false needs a kubeflow.pipeline_root at gs://"),
        (
            "data.paths=[minio://bucket/names]",
            "data.paths: only Kubeflow itself knows minio://; write s3://bucket/names",
        ),
        ("kubeflow.scratch=tmp", "kubeflow.scratch: 'tmp' is no absolute path"),
        ("kubeflow.volumes={htr-data: data}", "kubeflow.volumes: htr-data: 'data' is no absolute path"),
        ("kubeflow.secret_volumes={gcs: secrets}", "kubeflow.secret_volumes: gcs: 'secrets'"),
        (
            "kubeflow.secret_volumes={gcs: /models/}",
            "kubeflow.secret_volumes: gcs: volumes: htr-models is mounted at /models/, too",
        ),
        ("kubeflow.volumes={}", "push.model_dir: /models/htr is on no volume, and what a container writes elsewhere"),
        ("push.model_dir=/model/htr", "push.model_dir: /model/htr is on no volume"),
        ("push.model_dir=/models/../tmp/htr", r"push.model_dir: /models/\.\./tmp/htr is on no volume"),
        ("kubeflow.host=localhost:8888", "kubeflow.host: 'localhost:8888' is no address"),
        ("data.paths=[names]", "data.paths: names is relative; name it as the containers see it"),
        ("push.model_dir=models", "push.model_dir: models is relative"),
        ("train.warm_start=models/7", "train.warm_start: models/7 is relative"),
        ("train.freeze=[convolutions] train.warm_start=none", "train.freeze: "),
        ("beam.runner=spark", "needs beam.address"),
        (
            "beam.runner=flink beam.address=flink:8081",
            "beam.runner: workers of flink .* kubeflow.stage_artifacts=false and a kubeflow.pipeline_root at gs://",
        ),
        ("beam.runner=dask beam.address=tcp://dask:8786", "beam.runner: workers of dask cannot see"),
    ],
)
def test_kubeflow_is_given_what_containers_can_find(setting, message):
    with pytest.raises(ConfigError, match=message):
        preflight.check_kubeflow(load(None, [*KUBEFLOW, *re.split(r" (?=train\.|beam\.)", setting)]))


def test_kubeflow_may_be_given_what_this_machine_lacks():
    settings = ["train.warm_start=/models/htr/7", "bulk.folder=gs://bucket/new", "kubeflow.pipeline_root=minio://b/htr"]
    preflight.check_kubeflow(load(None, [*KUBEFLOW, *settings]))
    root = "kubeflow.pipeline_root={}://bucket/htr{}"
    preflight.check_kubeflow(load(None, [*KUBEFLOW, root.format("s3", "?endpoint=minio:9000&disableSSL=true")]))
    elsewhere = [root.format("gs", ""), "kubeflow.stage_artifacts=false"]
    preflight.check_kubeflow(load(None, [*KUBEFLOW, *elsewhere]))
    preflight.check_kubeflow(load(None, [*KUBEFLOW, *elsewhere, "beam.runner=flink", "beam.address=flink:8081"]))


@pytest.mark.parametrize("command", [["compile", "kubeflow", "{out}"], ["submit", "kubeflow"]])
def test_relative_paths_are_not_made_this_machines_for_kubeflow(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["--data", "names", "--set", "push.model_dir=/models", "--set", "kubeflow.host=http://localhost:1"]
    assert cli.main([part.format(out=tmp_path / "htr.yaml") for part in command] + settings) == cli.USAGE
    assert "data.paths: names is relative" in capsys.readouterr().err
    assert not (tmp_path / "htr.yaml").exists()


def test_airflow_is_refused_what_a_task_would_find_late(tmp_path, capsys):
    settings = ["--data", "/later", "--workspace", str(tmp_path / "w"), "--set", f"train.warm_start={tmp_path}/nowhere"]
    assert cli.main(["compile", "airflow", str(tmp_path / "dags"), *settings]) == cli.USAGE
    assert "train.warm_start" in capsys.readouterr().err and not (tmp_path / "dags").exists()


def test_airflow_is_told_of_a_bucket_that_cannot_be_written(tmp_path):
    settings = ["data.paths=[/later]", "push.model_dir=nowhere://models/htr", f"workspace={tmp_path}"]
    with pytest.raises(ConfigError, match=r"push\.model_dir: .*nowhere"):
        preflight.check_airflow(load(None, settings))


def test_airflow_is_not_compiled_without_the_name_of_the_data(tmp_path, capsys):
    """Its tasks have no command line that could name it."""
    command = ["compile", "airflow", str(tmp_path / "dags"), "--workspace", str(tmp_path / "w")]
    assert cli.main(command) == cli.USAGE
    assert "data.paths: name the data, with --data" in capsys.readouterr().err and not (tmp_path / "dags").exists()


def told_of_disks(data, workspace, capsys, *arguments):
    assert cli.main(["run", "--data", str(data), "--workspace", str(workspace), "--json", *arguments]) == cli.ERROR
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == cli.ERROR and not workspace.exists()
    return told["error"]


def test_full_disks_before_the_first_step_are_told_with_what_is_free(data, base_models, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packing, "_unpack", full)
    monkeypatch.setattr(packing, "_temporary", lambda: tmp_path)  # that of this process may hold the model by now
    told = told_of_disks(data, tmp_path / "w", capsys, "--set", "transform.preset=line")
    assert "(No space left on device)" in told
    for folder in (tmp_path / "w", tmp_path / "cache" / "htr", tempfile.gettempdir()):
        assert re.search(rf"[\d,.]+ MB in {folder}[,.]", told)


def test_a_disk_that_is_read_only_is_no_wrong_setting(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    monkeypatch.setattr(
        os, "statvfs", lambda _: Mock(f_flag=os.ST_RDONLY, f_bavail=0, f_bfree=0, f_blocks=1, f_frsize=1)
    )
    told = told_of_disks(data, tmp_path / "w", capsys)
    assert "(Read-only file system)" in told and f"MB in {tmp_path / 'w'}" in told


@pytest.mark.parametrize("setting", ["workspace", "push.model_dir"])
def test_a_folder_that_cannot_be_written_is_told_by_the_setting_that_names_it(
    data, tmp_path, capsys, monkeypatch, setting
):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    settings = [f"push.model_dir={tmp_path}/models"] if setting != "workspace" else []
    error = refused("run", data, tmp_path / "w", capsys, *settings)
    assert re.search(rf"error: {setting}: \S+ cannot be written, since {tmp_path} is not writable", error)


@pytest.mark.parametrize("task", ["text", "pages"])
def test_data_and_workspace_are_two_folders(data, tmp_path, capsys, task):
    (tmp_path / "page.xml").write_text("<PcGts/>")
    folder = data if task == "text" else tmp_path
    assert cli.main(["run", "--task", task, "--data", str(folder), "--workspace", str(folder)]) == cli.USAGE
    assert "workspace: what runs write into" in capsys.readouterr().err and not (folder / "logs").exists()


@pytest.mark.parametrize("linked", ["data", "workspace"])
def test_a_link_does_not_make_two_folders_of_data_and_workspace(data, tmp_path, capsys, linked):
    (tmp_path / "link").symlink_to(data)
    folders = [tmp_path / "link", data] if linked == "data" else [data, tmp_path / "link"]
    assert cli.main(["run", "--data", str(folders[0]), "--workspace", str(folders[1])]) == cli.USAGE
    assert "workspace: what runs write into" in capsys.readouterr().err and not (data / "logs").exists()


@pytest.mark.parametrize("name", ["project [2024]", "what?", "a*b"])
def test_a_workspace_whose_name_stands_for_others_is_refused(data, tmp_path, capsys, name):
    workspace = tmp_path / name
    assert cli.main(["run", "--data", str(data), "--workspace", str(workspace)]) == cli.USAGE
    assert "one of the characters * ? [" in " ".join(capsys.readouterr().err.split()) and not workspace.exists()


def test_airflow_with_a_metadata_database_wants_a_workspace_outside_of_the_data(data, tmp_path, capsys):
    arguments = ["compile", "airflow", str(tmp_path / "dags"), "--data", str(data), "--workspace", f"{data}/w"]
    assert cli.main([*arguments, "--set", "airflow.metadata_connection=mlmd"]) == cli.USAGE
    assert "workspace: what runs write into" in capsys.readouterr().err
