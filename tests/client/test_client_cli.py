"""The command line against a running server."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from htr_client import __version__, ngrams, pages
from htr_client.cli import add_arguments, main, run
from htr_client.decoding import Alphabet
from htr_client.files import SUFFIXES
from htr_client.language import LanguageModel
from htr_client.testing import ALPHABET, draw, png
from tests.conftest import until

JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}


@pytest.fixture
def folder(tmp_path):
    for name, text in (("b.png", "beta"), ("a.PNG", "alpha"), ("below/c.png", "gamma")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(text))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


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
    second = result["characters"][1]
    assert (second["text"], second["confidence"]) == ("e", 0.9) and 0 < second["span"][0] < second["span"][1] < 32
    assert result["suspicions"] == []
    assert result["error"] is None and 0 < result["confidence"] < 1


def test_csv_and_a_bad_image(call, folder):
    (folder / "d.png").write_bytes(b"rubbish")
    code, out, err = call(folder, folder / "none.png", "--format", "csv")
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["text"], row["error"]) for row in rows] == [
        ("alpha", ""),
        ("beta", ""),
        ("gamma", ""),
        ("", "not_an_image"),
        ("", "unreadable"),
    ]
    assert "d.png: Not an image" in err and "none.png: Cannot read" in err


def test_a_carriage_return_in_a_file_name_does_not_end_a_row(call, tmp_path):
    (tmp_path / "a\rb.png").write_bytes(b"rubbish")
    _, out, _ = call(tmp_path / "a\rb.png", "--format", "csv")
    assert [row["file"] for row in csv.DictReader(io.StringIO(out, newline=""))] == [f"{tmp_path}/a\rb.png"]


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
    for decoder in ("beam", "best-path", "best_path"):
        code, out, _ = call(folder / "b.png", "--decoder", decoder)
        assert code == 0 and "\tbeta\t" in out


def test_the_versions_own_language_model(call, folder, server):
    alphabet = Alphabet(ALPHABET)
    server.model.language_models[1] = LanguageModel(ngrams.count(["beua"] * 9, alphabet, 5), 0.7, 0.5).to_bytes()
    (folder / "few").write_text("besa\n")
    (folder / "many").write_text("besa\n" * 25_000)
    few, many = ["--lm", folder / "few"], ["--lm", folder / "many"]
    for text, arguments in (
        ("beua", []), ("beta", ["--decoder", "best-path"]), ("beua", few), ("besa", many),
        ("besa", [*few, "--lm-weight", "1", "--decoder", "beam"]),
    ):  # fmt: skip
        assert f"\t{text}\t" in call(folder / "b.png", *arguments)[1], arguments
    assert "\tbeta\t" in call(folder / "b.png", "--decoder", "beam", "--alternatives", "1")[1]
    lines = call(folder / "b.png", "--alternatives", "1")[1].splitlines()
    assert lines[0] == call(folder / "b.png")[1].splitlines()[0] and len(lines) == 2


def test_a_path_for_the_name_of_a_served_model(call, server, tmp_path):
    (tmp_path / "a.png").write_bytes(png("a"))
    code, _, err = call(tmp_path / "a.png", "--model", "workspace/serving_model/htr")
    assert code == 1 and "has no model 'workspace/serving_model/htr'. --model is the name of a served model" in err
    server.model.name = "team/htr"
    assert call(tmp_path / "a.png", "--model", "team/htr")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["none-*.png"],
        ["a.png", "--lexicon", "empty.txt"],
        ["a.png", "--lm", "empty.txt"],
        ["a.png", "--strict-lexicon"],
        ["a.png", "--tls-certificate", "a.pem"],
        ["a.png", "--tls-key", "a.pem"],
        ["a.png", "--lexicon", "latin1.txt"],
        ["a.png", "--lm", "latin1.txt"],
        ["a.png", "--model-version", "99999999999999999999"],
        # What would do nothing.
        ["a.png", "--alternatives", "2", "--format", "csv"],
        ["a.png", "--alternatives", "2", "--kind", "page"],
        ["a.png", "--lexicon-penalty", "3"],
        ["a.png", "--lexicon", "words.txt", "--strict-lexicon", "--lexicon-penalty", "3"],
        ["a.png", "--decoder", "beam", "--lm-weight", "0.5"],
        ["a.png", "--lm-order", "3"],
        ["a.png", "--lm", "words.txt", "--lm-weight", "nan"],
        ["a.png", "--lm-weight", "inf"],
        ["a.png", "--lexicon", "words.txt", "--lexicon-penalty", "nan"],
    ],
)
def test_wrong_usage(call, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png("a"))
    (tmp_path / "latin1.txt").write_bytes("Köln".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "words.txt").write_text("a")
    code, out, err = call(*arguments)
    assert "empty.txt" not in arguments or "empty.txt holds no " in err
    assert "latin1.txt" not in arguments or "latin1.txt is not UTF-8" in err
    assert (code, out) == (2, "") and err.startswith("error: ") and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--lexicon", "nowhere.txt"], "--lexicon nowhere.txt cannot be read: No such file or directory"),
        (["--lexicon", "."], "--lexicon . cannot be read: Is a directory"),
        (["--lm", "nowhere.txt"], "--lm nowhere.txt cannot be read: No such file or directory"),
        (["--tls-ca", "nowhere.pem"], "nowhere.pem: No such file or directory (Tls(ca=...), --tls-ca)"),
        (
            ["--tls-certificate", "nowhere.pem", "--tls-key", "nowhere.pem"],
            "nowhere.pem: No such file or directory (Tls(certificate=...), --tls-certificate)",
        ),
        (["--beam-width", "0"], "--beam-width is 1 or more, not 0"),
        (["--decoder", "beam", "--alternatives", "-1"], "--alternatives is 0 or more, not -1"),
        (["--batch-size", "0"], "--batch-size is 1 or more, not 0"),
        (
            ["s3://a/*.png"],
            "s3://a/*.png is an address, and images are read from files of this machine: download it, "
            "or give its folder in a bucket to htr transcribe --input",
        ),
        (["--in-flight", "-2"], "--in-flight is 1 or more, not -2"),
        (["--timeout", "0"], "--timeout is a number of seconds above 0, not 0"),
        (["--patience", "nan"], "--patience is 0 or more, not nan"),
    ],
)
def test_errors_name_the_option(call, arguments, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png("a"))
    assert call("a.png", *arguments) == (2, "", f"error: {told}\n")


def test_best_path_refuses_every_option_of_the_beam(call, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out.partition("\ndecoding:\n")[2].partition("\n\n")[0]
    options = re.findall(r"^  (--[a-z-]+)( [A-Z]+)?", shown, re.MULTILINE)
    assert {"--decoder", "--alternatives", "--lm-order"} < {option for option, _ in options}
    for option, value in options:
        if option != "--decoder":
            code, _, err = call("a.png", "--decoder", "best-path", option, *(["2"] if value else []))
            assert code == 2 and err.startswith(f"error: --decoder best-path takes no {option}: leave")


def test_empty_folder(call, tmp_path):
    code, _, err = call(tmp_path)
    assert code == 2 and "no image in the folder" in err


def test_hidden_files_and_other_formats_are_left_out_and_counted(call, folder):
    """AppleDouble files of a Mac, hidden folders, and images that are not read."""
    (folder / "._b.png").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "d.png").write_bytes(png("delta"))
    (folder / "__MACOSX").mkdir()  # what a Mac's archive leaves
    (folder / "__MACOSX" / "e.png").write_bytes(b"\0\x05\x16\x07")
    for name in ("1.heic", "2.HEIC", "below/3.heic", "4.gif", ".5.heic"):
        (folder / name).write_bytes(b"x")
    code, out, err = call(folder)
    assert code == 0 and [line.split("\t")[1] for line in out.splitlines()] == ["alpha", "beta", "gamma"]
    assert "3 .heic files were left out: convert them to JPEG or PNG." in err
    assert "1 .gif file was left out: convert it to JPEG or PNG." in err
    assert f"3 hidden files were left out, such as '{folder}/._b.png'." in err
    for path in (*folder.glob("*.png"), *folder.glob("*.PNG"), *folder.glob("below/*.png")):
        path.unlink()
    code, _, err = call(folder)
    assert code == 2 and "no image in the folder" in err and "3 .heic files" in err


def test_files_with_other_endings_are_counted_unless_they_are_companions(call, folder):
    for name in ("scan", "below/raw.cr2", ".hidden.cr2", "labels.csv", "page.XML", "1.j2k", "2.j2k"):
        (folder / name).write_bytes(png("delta"))
    code, out, err = call(folder)
    assert code == 0 and [line.split("\t")[1] for line in out.splitlines()] == ["alpha", "beta", "gamma"]
    assert err.splitlines() == [
        f"note: {folder}: 2 .j2k files were left out: convert them to JPEG or PNG.",
        f"note: {folder}: 2 other files were left out, such as '{folder}/below/raw.cr2'.",
    ]


def test_linked_folders_are_read_but_not_in_circles(call, folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "d.png").write_bytes(png("delta"))
    (folder / "linked").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    (elsewhere / "back").symlink_to(folder)
    code, out, _ = call(folder)
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()] == [
        [str(folder / "a.PNG"), "alpha"], [str(folder / "b.png"), "beta"],
        [str(folder / "below" / "c.png"), "gamma"], [str(folder / "linked" / "d.png"), "delta"],
    ]  # fmt: skip


@pytest.mark.timeout(60)
def test_only_regular_files_of_a_folder_are_opened(call, folder, monkeypatch):
    os.mkfifo(folder / "pipe.png")
    (folder / "below").rename(folder / "dir.png")
    (folder / "gone.png").symlink_to("nowhere")
    monkeypatch.chdir(folder)
    code, out, err = call(".")
    assert [line.split("\t")[:2] for line in out.splitlines()] == [
        ["a.PNG", "alpha"], ["b.png", "beta"], ["dir.png/c.png", "gamma"]
    ]  # fmt: skip
    assert "note: .: 1 special file was left out, such as 'pipe.png'." in err
    assert code == 1 and "error: gone.png: Cannot read" in err


def test_a_folder_that_cannot_be_read_is_an_error(call, folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    code, out, err = call(folder)
    assert (code, out) == (2, "") and "Permission denied" in err


def test_every_format_that_a_folder_is_searched_for_is_read(call, tmp_path):
    image = cv2.cvtColor(draw("kept"), cv2.COLOR_GRAY2BGR)
    for suffix in SUFFIXES:
        written = {".pgm": draw("kept"), ".pbm": draw("aa")}.get(suffix, image)
        data = cv2.imencode(".jpg" if suffix in JPEG else suffix, written)[1].tobytes()
        (tmp_path / f"image{suffix}").write_bytes(data)
    code, out, err = call(tmp_path, "--format", "json")
    found = {os.path.splitext(row["file"])[1]: row for row in map(json.loads, out.splitlines())}
    assert (code, err) == (0, "") and set(found) == set(SUFFIXES)
    lossless = set(SUFFIXES) - JPEG - {".webp", ".pbm"}
    assert {found[suffix]["text"] for suffix in lossless} == {"kept"}


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (np.full((16, 64), 250, np.uint8), "blank"),
        (np.zeros((16, 64), np.uint8), "blank"),
        (np.where(np.arange(64) % 16 < 3, 230, 20).astype(np.uint8)[None].repeat(16, axis=0), "inverted"),
        (np.tile(draw("alpha")[:4], (1, 8)), "too_wide"),
    ],
)
def test_suspicions_are_told_in_every_format(call, tmp_path, image, code):
    path = tmp_path / "odd.png"
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    exit_code, out, err = call(path)
    assert exit_code == 0 and out.startswith(str(path)) and err.startswith(f"warning: {path}: ")
    _, out, _ = call(path, "--format", "json")
    [suspicion] = json.loads(out)["suspicions"]
    assert suspicion["code"] == code and suspicion["message"] in err
    _, out, _ = call(path, "--format", "csv")
    [row] = csv.DictReader(io.StringIO(out))
    assert row["suspicions"] == code


def test_alternatives_are_shown_in_text(call, folder):
    _, out, _ = call(folder / "b.png", "--alternatives", 2)
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == [str(folder / "b.png"), "", ""] and lines[0][1] == "beta"
    assert all(float(line[2]) < float(lines[0][2]) for line in lines[1:])


def test_a_lexicon_is_a_preference_unless_it_is_strict(call, folder):
    (folder / "words").write_text("bet alpha")
    lexicon = ("--lexicon", folder / "words")
    assert "\tbeta\t" in call(folder / "b.png", *lexicon, "--lexicon-penalty", 1)[1]
    assert "\tbet\t" in call(folder / "b.png", *lexicon, "--lexicon-penalty", 50)[1]
    assert "\tbet\t" in call(folder / "b.png", *lexicon, "--strict-lexicon")[1]
    code, out, err = call(folder / "b.png", *lexicon, "--lexicon-penalty", -1)
    assert (code, out) == (2, "") and "--lexicon-penalty is 0 or more" in err


def test_warnings_are_a_line_each(call, folder):
    (folder / "words").write_text("beta слово")
    code, out, err = call(folder / "b.png", "--lexicon", folder / "words")
    assert code == 0 and "\tbeta\t" in out and err.count("\n") == 1
    assert err.startswith("warning: 1 of 2 words of the lexicon are left out") and "UserWarning" not in err
    code, out, err = call(folder / "b.png", "--lm-weight", 0.5)
    assert code == 0 and "\tbeta\t" in out
    assert err == "warning: the version has no language model, so --lm-weight does nothing: use --lm FILE\n"


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"htr-client {__version__}\n"


def test_bar_and_results_share_a_terminal(server, folder):
    """On one terminal the bar is erased before each result."""
    pty = pytest.importorskip("pty")
    for number in range(40):
        (folder / f"{number}.png").write_bytes(png("many"))
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "htr_client.cli", "--server", server.address, str(folder)]
    running = subprocess.Popen(arguments, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while part := os.read(ours, 4096):
            shown += part
    assert running.wait() == 0
    os.close(ours)
    assert b"] 42/43" in shown
    seen = [line.rpartition(b"\x1b[K")[2] for line in shown.split(b"\r\n")]
    assert [line.split(b"\t")[1] for line in seen[:-1]].count(b"many") == 40 and seen[-1] == b""


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


def test_redirected_output_is_utf8_whatever_the_locale(server, tmp_path):
    """XML declares UTF-8, and programs that read JSON and CSV expect it; Windows redirects to its code page."""
    server.model.alphabets = {1: ["é", *ALPHABET[1:]]}
    image = png("ab")
    grey = np.full((700, 900), 240, np.uint8)
    grey[120:150, 100:500] = 0
    page = cv2.imencode(".png", grey)[1].tobytes()
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    for format_ in ("text", "json", "csv", "page"):
        given = page if format_ == "page" else image
        done = command(server, "-", "--format", format_, input=given, env=environment)
        assert done.returncode == 0, done.stderr
        assert "é".encode() in done.stdout
    assert "é" in pages.read(done.stdout).text


def test_a_terminal_that_lacks_a_character_shows_an_escape(server, tmp_path):
    pty = pytest.importorskip("pty")
    server.model.alphabets = {1: ["é", *ALPHABET[1:]]}
    (tmp_path / "a.png").write_bytes(png("ab"))
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "htr_client.cli", "--server", server.address, str(tmp_path / "a.png")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(arguments, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown = os.read(ours, 4096)
    os.close(ours)
    assert done.returncode == 0, done.stderr
    assert b"\t\\xe9b\t" in shown


def test_closed_standard_streams(server, tmp_path):
    """As after <&-, >&- and 2>&- in a shell, and with pythonw on Windows."""
    (tmp_path / "a.png").write_bytes(png("alpha"))
    program = f"{sys.executable} -m htr_client.cli --server {server.address} --format csv {tmp_path}/a.png"

    def shell(line):
        return subprocess.run(["bash", "-c", line], capture_output=True, stdin=subprocess.DEVNULL)

    done = shell(f"{program} 2>&-")
    assert done.returncode == 0 and b"alpha" in done.stdout
    done = shell(f"{program} >&-")
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert shell(f"{program} <&- >&- 2>&-").returncode == 0
    assert shell(f"{program} --no-such-option 2>&-").returncode == 2
    done = shell(f"{program} - <&-")
    assert (done.returncode, done.stdout) == (2, b"") and done.stderr.startswith(b"error: standard input (-) is closed")


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
        until(lambda: server.model.batches)
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=20) == (b"", b"Interrupted.\n")
    assert running.returncode == 130


def test_an_interrupt_before_libraries_are_loaded(call, tmp_path, monkeypatch):
    """They take the command's first second."""

    class Interrupting:
        def find_spec(self, name, path=None, target=None):
            if name == "htr_client.kinds":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "htr_client.kinds", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    try:
        told = call(tmp_path / "a.png")
    except KeyboardInterrupt:  # which would end the whole session
        told = None
    assert told == (130, "", "Interrupted.\n")


def test_help_needs_no_grpc():
    code = (
        "import sys\nfrom htr_client.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'grpc', 'cv2', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_timeout_and_patience_without_end(call, tmp_path):
    (tmp_path / "a.png").write_bytes(png("alpha"))
    code, out, err = call(tmp_path / "a.png", "--timeout", "inf", "--patience", "inf")
    assert code == 0 and "\talpha\t" in out and "error" not in err
    code, _, err = call(tmp_path / "a.png", "--timeout", "nan")
    assert code == 2 and "timeout" in err
