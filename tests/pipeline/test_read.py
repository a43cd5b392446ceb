"""Text without a server: `htr read`, its Python twin, and the base model where nothing was pushed."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.base_model import packing
from components.line_finder.recogniser import LineGateError, model_for_lines
from components.line_finder.settings import LineGateConfig
from components.pusher.publishing import push
from htr_client import HtrClient, ImageError
from htr_client.beam import PrefixBeamSearch
from pipeline import cli
from pipeline.config import load
from pipeline.local_models import NoModelError, find_model, local_client, pushed_line_finder
from serving.rollout.moving import Rollout
from serving.server import EmbeddedServer
from serving.version_directory import GRAPH_FILE, SETTINGS_FILE
from tests.components.toy import drawn

SHIPPED = packing.FOLDER
WORDS = ["ab", "ba", "cab", "abc", "bca"]  # without two equal letters in a row, where a quick training fails


@pytest.fixture
def images(tmp_path):
    """A folder of words, one image that is none, and a file that is not looked at."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, word in enumerate(WORDS):
        (folder / f"{word}.png").write_bytes(drawn(word, 700 + number))
    (folder / "none.png").write_text("no image")
    (folder / "notes.txt").write_text("notes")
    return folder


@pytest.fixture
def workspace(tmp_path, toy_version):
    """A workspace with one version."""
    push(str(toy_version), str(tmp_path / "workspace" / "serving_model" / "htr"), keep=2)
    return tmp_path / "workspace"


def run(capfd, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    told = capfd.readouterr()
    return code, told.out, told.err


def errors(told):
    return [line for line in told.splitlines() if line.startswith("error: ")]


def words_read(out):
    """The texts of `--format text`, by the word that the file's name tells."""
    rows = [line.split("\t") for line in out.splitlines()]
    return {Path(path).stem: text for path, text, _ in rows}


def test_read_prints_what_predict_prints(images, workspace, capfd):
    [version] = (workspace / "serving_model" / "htr").glob("[0-9]*[0-9]")
    with EmbeddedServer(model_name="htr", model_base_path=str(version.parent), port=0) as server:
        for options in ("--format text", "--format json", "--format csv", "--format json --alternatives 2"):
            arguments = [images, images / "ab.png", images / "gone.png", *options.split()]
            code, out, err = run(capfd, "predict", *arguments, "--server", server.address)
            assert code == 1 and len(out.splitlines()) > len(WORDS) and err.count("error: ") == 2
            code, out_again, err_again = run(capfd, "read", *arguments, "--workspace", workspace)
            assert (code, out_again) == (1, out)
            assert errors(err_again) == errors(err) and f"note: The model is {version}\n" in err_again


def test_an_empty_workspace_is_no_obstacle(images, base_models, tmp_path, capfd):
    code, out, err = run(capfd, "read", images, "--workspace", tmp_path / "none")
    assert code == 1 and words_read(out) == {word: word for word in WORDS}
    assert f"No version has been pushed to {tmp_path}/none/serving_model/htr yet. This is the base model for" in err
    assert "lines and words in Latin script" in err and "htr run --data FOLDER" in err
    code, out, _ = run(capfd, "read", images / "ab.png", "--workspace", tmp_path / "none", "--format", "json")
    assert code == 0 and json.loads(out)["model"] == "base-line" and json.loads(out)["model_version"] > 20200000
    assert not (tmp_path / "none").exists()


def test_a_pushed_version_comes_before_the_base_unless_that_is_asked_for(images, workspace, base_models, capfd):
    image = images / "ab.png"
    in_workspace = ["--workspace", workspace, "--format", "json"]
    [version] = (workspace / "serving_model" / "htr").glob("[0-9]*[0-9]")
    _, out, _ = run(capfd, "read", image, *in_workspace)
    assert (json.loads(out)["model"], json.loads(out)["model_version"]) == ("htr", int(version.name))
    _, out, err = run(capfd, "read", image, *in_workspace, "--base", "line")
    assert json.loads(out)["model"] == "base-line" and "note: This is the base model" in err
    for directory in (version, version.parent):
        code, out, _ = run(capfd, "read", image, "--model", directory, "--workspace", workspace / "other")
        assert code == 0 and words_read(out) == {"ab": "ab"}


def test_the_largest_image_is_a_setting(images, base_models, tmp_path, capfd):
    image = images / f"{WORDS[0]}.png"
    more = ["--workspace", tmp_path / "none", "--set"]
    code, _, err = run(capfd, "read", image, *more, "data.max_megapixels=0.0001")
    assert code == 1 and "more than the limit of 100." in errors(err)[0] and "--set data.max_megapixels" in err
    assert run(capfd, "read", image, *more, "data.max_megapixels=1")[0] == 0
    with pytest.raises(ImageError), local_client(str(tmp_path / "none"), max_pixels=100) as client:
        client.transcribe(image)


def test_an_image_from_standard_input(images, base_models, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((images / "cab.png").read_bytes())))
    code, out, _ = run(capfd, "read", "-", "--workspace", tmp_path)
    assert code == 0 and out.startswith("-\tcab\t")


def test_what_is_wrong_is_said_before_anything_is_loaded(images, workspace, base_models, tmp_path, capfd):
    image, empty = images / "ab.png", tmp_path / "empty"
    code, _, err = run(capfd, "read", image, "--model", images)
    assert (
        code == cli.USAGE and f"--model: {images} is neither a version of a model nor a directory with versions" in err
    )
    code, _, err = run(capfd, "read", image, "--line-finder", empty)
    assert code == cli.USAGE and f"--line-finder: {empty} is neither" in err and "versions, and does not exist" in err
    code, _, err = run(capfd, "read", image, "--base", "word")
    assert code == cli.USAGE and "--base: There is no base model for transform.preset=word" in err
    code, _, err = run(capfd, "read", tmp_path / "no*.png")
    assert code == cli.USAGE and "no file matches" in err
    shutil.copytree(SHIPPED / packing.PAGES, base_models / packing.PAGES)
    os.truncate(base_models / packing.PAGES / "weights.npz", 1000)
    for command in (["read", image], ["serve", "--pages"]):
        code, _, err = run(capfd, *command, "--workspace", workspace)
        assert code == cli.ERROR and f"{base_models}/{packing.PAGES} is damaged" in err and "install htr" in err
    with pytest.raises(NoModelError, match="is damaged"):
        local_client(str(workspace))
    [version] = (workspace / "serving_model" / "htr").glob("[0-9]*[0-9]")
    version.rename(version.with_name(f".withdrawn-{version.name}"))
    code, _, err = run(capfd, "read", image, "--workspace", workspace)
    assert code == cli.ERROR and "are withdrawn" in err
    shutil.rmtree(base_models)
    code, _, err = run(capfd, "read", image, "--workspace", empty)
    assert code == cli.ERROR and "yet: htr run first" in err and "no base model for transform.preset=line" in err


def test_a_line_finder_and_a_model_that_transcribes_are_told_apart(images, workspace, tmp_path, capfd):
    finder = tmp_path / "7"
    for name, content in ((GRAPH_FILE, ""), (SETTINGS_FILE, '{"line_finder": {}}')):
        (finder / name).parent.mkdir(parents=True, exist_ok=True)
        (finder / name).write_text(content)
    code, _, err = run(capfd, "read", images, "--model", finder)
    assert code == cli.USAGE and f"--model: {finder} is a line finder, which does not transcribe" in err
    models = workspace / "serving_model" / "htr"
    code, _, err = run(capfd, "read", images, "--workspace", workspace, "--line-finder", models)
    assert code == cli.USAGE and f"--line-finder: {models}/" in err and "is no line finder" in err
    with pytest.raises(LineGateError, match=r"line_gate\.recogniser: .* is a line finder"):
        model_for_lines(LineGateConfig(recogniser=str(finder)), str(models), "htr")


def test_what_reads_without_a_server_follows_a_label_that_is_rolled_back(tmp_path):
    config = load(workspace=str(tmp_path))
    finders = config.model_copy(update={"task": "pages"})
    for name, model_dir in (config.servable, finders.servable):
        for number in (1800000001, 1800000002):
            for path, content in ((GRAPH_FILE, ""), ("variables/variables.index", "")):
                there = Path(model_dir, str(number), path)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_text(content)
        rollout = Rollout(model_dir, name)
        for number in (1800000001, 1800000002):
            rollout.promote(number, "stable")
    assert find_model(config).note == f"The model is {config.model_dir}/1800000002"
    for name, model_dir in (config.servable, finders.servable):
        Rollout(model_dir, name).roll_back("stable")
    found = find_model(config)
    assert found.path == model_for_lines(LineGateConfig(), config.model_dir, "htr") == f"{config.model_dir}/1800000001"
    assert found.note.endswith("/1800000001, which is in service; version 1800000002 is newer")
    assert pushed_line_finder(config) == f"{config.line_finder_dir}/1800000001"
    assert find_model(config, config.model_dir).path.endswith("2"), "of a folder that is named, the newest"
    Path(tmp_path, "serving_model", "models.config").write_text("no configuration")
    with pytest.raises(NoModelError, match="is not a readable model configuration"):
        find_model(config)


def test_a_file_that_is_not_there_is_told_without_a_model(workspace, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("serving.local.LoadedModel", None)
    for kind in ("auto", "line", "page"):
        code, out, err = run(capfd, "read", tmp_path / "gone.png", "--kind", kind, "--workspace", workspace)
        assert (code, out) == (1, "") and "No such file" in err and "Loading" not in err
    code, _, err = run(capfd, "read", tmp_path / "gone.png", "--line-finder", tmp_path)
    assert code == cli.USAGE and f"--line-finder: {tmp_path} is neither" in err


@pytest.mark.parametrize(("preset", "kind", "told"), [("word", "page", 1), ("word", "line", 0), ("line", "page", 0)])
def test_a_model_for_words_is_told_where_pages_are_asked_for(tmp_path, monkeypatch, capfd, preset, kind, told):
    monkeypatch.setattr("serving.local.LoadedModel", None)
    for number, settings in (("7", {"transform": {"preset": preset}}), ("8", {"line_finder": {}})):
        for name, content in ((GRAPH_FILE, ""), (SETTINGS_FILE, json.dumps(settings))):
            (tmp_path / number / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / number / name).write_text(content)
    arguments = ["--kind", kind, "--model", tmp_path / "7", "--workspace", tmp_path / "w", "--line-finder"]
    _, _, err = run(capfd, "read", tmp_path / "gone.png", *arguments, tmp_path / "8")
    assert err.count("note: This model is for single words") == err.count("--base line") == told
    # The line finder that is missing ends it before anything is loaded.
    batch = ["transcribe", "--input", tmp_path, "--output", tmp_path / "texts.csv", *arguments, tmp_path / "9"]
    code, _, err = run(capfd, *batch)
    assert code == cli.USAGE and err.count("note: This model is for single words") == told


def test_in_python(images, workspace, base_models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the workspace is ./workspace by default
    with local_client() as client:
        results = {path.name: client.transcribe(path) for path in sorted(images.glob("*b*.png"))}
    assert {name: result.text for name, result in results.items()} == {f"{word}.png": word for word in WORDS}
    characters = results["cab.png"].characters
    assert [character.text for character in characters] == ["c", "a", "b"]
    assert characters[0].span[0] < characters[1].span[0] < characters[2].span[0] and results["cab.png"].confidence > 0
    with local_client("none", decoder=PrefixBeamSearch(alternatives=1)) as client:
        assert client.transcribe(images / "ab.png").alternatives and client.model == "base-line"
    shutil.rmtree(base_models)
    with pytest.raises(NoModelError, match="htr run first"):
        local_client("none")


@pytest.mark.slow
def test_a_process_of_its_own_needs_no_tfx(images, base_models, tmp_path):
    code = (
        "import sys; from pathlib import Path; from components.base_model import packing; from pipeline import cli\n"
        f"packing.FOLDER = Path({str(base_models)!r})\n"
        f"code = cli.main(['read', {str(images / 'cab.png')!r}, '--workspace', {str(tmp_path)!r}])\n"
        "loaded = [m for m in ('tfx', 'apache_beam', 'tensorflow_transform') if m in sys.modules]\n"
        "assert not loaded, loaded\n"
        "import keras, matplotlib, pandas, sklearn\n"  # what TensorFlow was imported without is there for others
        "sys.exit(code)\n"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.split("\t")[1] == "cab", done.stderr
    told = [line.strip() for line in done.stderr.splitlines()]
    assert all(line.startswith(("note: ", "Loading ", "Waiting ")) for line in told), done.stderr


def test_serve_begins_with_the_base_and_goes_over_to_the_first_version(
    images, base_models, toy_version, tmp_path, monkeypatch, capfd
):
    served = []
    monkeypatch.setattr("serving.server.run", lambda arguments: served.append(arguments) or 0)
    code, _, err = run(capfd, "serve", "--workspace", tmp_path / "w")
    assert code == 0 and "This is the base model for" in err and "goes over to the new version" in err
    [arguments] = served
    model_dir = tmp_path / "w" / "serving_model" / "htr"
    assert arguments.model_base_path == str(model_dir) and not (tmp_path / "w").exists()
    settings = {"fallback_base_path": arguments.fallback_base_path, "file_system_poll_wait_seconds": 0.1}
    with (
        EmbeddedServer(model_name="htr", model_base_path=str(model_dir), port=0, **settings) as server,
        HtrClient(server.address) as client,
    ):
        before = client.transcribe(images / "ab.png")
        assert before.text == "ab" and arguments.fallback_base_path in packing.unpack("line")
        number = push(str(toy_version), str(model_dir), keep=2)
        while (version := client.transcribe(images / "ab.png").version) != number:
            assert version == before.version
    there = {path.name for path in model_dir.iterdir()}
    assert there == {str(number), ".versions.lock"}, "the base left nothing there"
    run(capfd, "serve", "--workspace", tmp_path / "w")
    assert not served[-1].fallback_base_path
    run(capfd, "serve", "--model_base_path", tmp_path / "given")
    assert served[-1].model_base_path == str(tmp_path / "given") and not served[-1].fallback_base_path


def test_serve_starts_no_server_that_would_wait_for_another_models_directory(tmp_path, monkeypatch, capsys):
    served = []
    monkeypatch.setattr("serving.server.run", lambda arguments: served.append(arguments) or 0)
    for name, promotion in (("htr", []), ("htr-lines", ["--task", "pages", "--base-path", "/models/htr-lines"])):
        version = tmp_path / "serving_model" / name / "1"
        version.mkdir(parents=True)
        (version / "saved_model.pb").touch()
        assert cli.main(["promote", "1", "--label", "stable", "--workspace", str(tmp_path), *promotion]) == 0
    assert cli.main(["serve", "--workspace", str(tmp_path)]) == cli.USAGE and not served
    assert "the versions of htr-lines in /models/htr-lines, which is not a folder" in capsys.readouterr().err
    config = tmp_path / "serving_model" / "models.config"
    config.write_text(config.read_text().replace("/models/htr-lines", str(tmp_path / "serving_model" / "htr-lines")))
    assert cli.main(["serve", "--workspace", str(tmp_path)]) == 0
    assert served.pop().model_config_file == str(config) and "note" not in capsys.readouterr().err
    # The line finder alone has labels.
    config.write_text(config.read_text().replace('"htr"', '"another"'))
    assert cli.main(["serve", "--pages", "--workspace", str(tmp_path)]) == 0
    assert not served.pop().model_config_file
    assert "note: the newest line finder is served, whatever has a label (stable is 1)" in capsys.readouterr().err


def test_transcribe_begins_with_the_base(images, base_models, tmp_path, capfd):
    arguments = ["transcribe", "--input", images, "--workspace", tmp_path / "w"]
    code, _, err = run(capfd, *arguments, "--output", tmp_path / "texts.jsonl")
    assert code == 0 and "This is the base model for lines and words" in err
    rows = [json.loads(line) for path in tmp_path.glob("texts-0*.jsonl") for line in path.read_text().splitlines()]
    assert {row["path"]: row["text"] for row in rows} == {f"{word}.png": word for word in WORDS}
    elsewhere = ["--set", "beam.runner=flink", "--set", "beam.address=localhost:1"]
    code, _, err = run(capfd, *arguments, "--output", tmp_path / "others.jsonl", *elsewhere)
    assert code == cli.USAGE and f"copy {packing.unpack('line')} to a place that they see" in err
    shutil.rmtree(base_models)
    code, _, err = run(capfd, *arguments, "--output", tmp_path / "others.jsonl")
    assert code == cli.ERROR and "yet: htr run first" in err
