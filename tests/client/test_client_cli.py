"""The command line against a running server."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from fake_server import png

from htr_client.cli import add_arguments, main, run


@pytest.fixture
def folder(tmp_path):
    for name, text in (("b.png", "beta"), ("a.PNG", "alpha"), ("below/c.png", "gamma")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(text))
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


@pytest.fixture
def call(server, capsys):
    def run_main(*arguments):
        code = main([*map(str, arguments), "--server", server.address])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_main


def test_files_folders_and_globs(call, folder):
    code, out, err = call(folder)
    assert (code, err) == (0, "")
    assert [line.split("\t")[1] for line in out.splitlines()] == ["alpha", "beta", "gamma"]
    assert out.splitlines()[0].split("\t")[0] == str(folder / "a.PNG")
    code, out, _ = call(folder / "**" / "*.png", folder / "a.PNG")
    assert code == 0 and [line.split("\t")[1] for line in out.splitlines()] == ["beta", "gamma", "alpha"]


def test_json(call, folder):
    code, out, _ = call(folder / "b.png", "--format", "json")
    [result] = map(json.loads, out.splitlines())
    assert code == 0 and (result["text"], result["model"], result["model_version"]) == ("beta", "htr", 1)
    assert result["characters"][1] == {"text": "e", "confidence": 0.9, "span": [8.0, 12.0]}
    assert result["error"] is None and 0 < result["confidence"] < 1


def test_csv_and_a_bad_picture(call, folder):
    (folder / "d.png").write_bytes(b"rubbish")
    code, out, err = call(folder, folder / "none.png", "--format", "csv")
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["text"], row["error"]) for row in rows] == [
        ("alpha", ""),
        ("beta", ""),
        ("gamma", ""),
        ("", "not_a_picture"),
        ("", "unreadable"),
    ]
    assert "d.png: Not a picture" in err and "none.png: Cannot read" in err


@pytest.mark.parametrize("format_", ["text", "json", "csv"])
def test_file_names_that_are_no_utf8_are_printed_as_escapes(call, folder, format_):
    for name, content in ((b"m\xfcller.png", png("delta")), (b"none\xfc.png", b"rubbish")):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(content)
    code, out, _ = call(folder, "--format", format_)
    assert code == 1 and all(text in out for text in ("alpha", "beta", "gamma", "delta"))
    name = json.loads(out.splitlines()[-2])["file"] if format_ == "json" else out
    assert f"{folder}/m\\udcfcller.png" in name


def test_decoders(call, folder):
    (folder / "words").write_text("alpha beta gamma delta")
    (folder / "text").write_text("alpha\nbeta\n")
    code, out, _ = call(
        folder / "b.png",
        "--lexicon",
        folder / "words",
        "--lm",
        folder / "text",
        "--alternatives",
        2,
        "--format",
        "json",
    )
    result = json.loads(out)
    assert code == 0 and result["text"] == "beta" and len(result["alternatives"]) <= 2
    code, out, _ = call(folder / "b.png", "--decoder", "beam")
    assert code == 0 and "\tbeta\t" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["none-*.png"],
        ["a.png", "--lexicon", "nowhere.txt"],
        ["a.png", "--decoder", "best-path", "--alternatives", "2"],
        ["a.png", "--tls-certificate", "a.pem"],
        ["a.png", "--tls-ca", "nowhere.pem"],
        ["a.png", "--batch-size", "0"],
        ["a.png", "--decoder", "beam", "--alternatives", "-1"],
        ["a.png", "--lexicon", "latin1.txt"],
        ["a.png", "--lm", "latin1.txt"],
        ["a.png", "--model-version", "99999999999999999999"],
    ],
)
def test_wrong_usage(call, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png("a"))
    (tmp_path / "latin1.txt").write_bytes("Köln".encode("latin-1"))
    code, out, err = call(*arguments)
    assert "latin1.txt" not in arguments or "latin1.txt is not UTF-8" in err
    assert (code, out) == (2, "") and err.startswith("error: ") and "Traceback" not in err


def test_empty_folder(call, tmp_path):
    code, _, err = call(tmp_path)
    assert code == 2 and "no picture in the folder" in err


def test_no_server(folder, capsys):
    code = main([str(folder), "--server", "localhost:1", "--patience", "0", "--timeout", "1"])
    assert code == 1 and capsys.readouterr().err.startswith("error: ")


def test_another_command_can_share_it(server, folder, capsys):
    import argparse

    parser = argparse.ArgumentParser("htr")
    add_arguments(parser.add_subparsers().add_parser("predict"))
    assert run(parser.parse_args(["predict", str(folder / "b.png"), "--server", server.address])) == 0
    assert "\tbeta\t" in capsys.readouterr().out


def command(server, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "htr_client.cli", "--server", server.address, *arguments], capture_output=True, **options
    )


def test_standard_input(server):
    done = command(server, "-", input=png("piped"))
    assert (done.returncode, done.stdout.split(b"\t")[1], done.stderr) == (0, b"piped", b"")
    done = command(server, "-", "--format", "json", input=b"")
    assert done.returncode == 1 and json.loads(done.stdout)["error"]["reason"] == "empty"


def test_a_reader_that_goes_away(server, folder):
    line = f"{sys.executable} -m htr_client.cli --server {server.address} {folder} {folder}/*.png | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True)
    assert done.stdout.count(b"\n") == 1 and b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_interrupted(server, folder):
    server.model.delay = 5.0
    # Where tests run in the background, Ctrl-C is ignored, by their children too.
    code = (
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from htr_client.cli import main\nsys.exit(main())"
    )
    arguments = [sys.executable, "-c", code, "--server", server.address, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 20
        while not server.model.batches and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=20) == (b"", b"Interrupted.\n")
    assert running.returncode == 130


def test_help_needs_no_grpc():
    code = (
        "import sys\nfrom htr_client.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'grpc', 'cv2', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
