"""bfloat16: nearly the same answers where the processor has it, exactly those of float32 where it does not."""

from __future__ import annotations

import argparse
import csv
import logging
from pathlib import Path

import numpy as np
import pytest

from components.base_model.packing import unpack
from components.batch_transcriber.listing import Image
from components.batch_transcriber.transcribing import Transcriber
from components.common.metrics import count_errors
from components.tools.sample_data import generate
from htr_client import HtrClient
from pipeline import cli
from pipeline.commands import transcribe
from serving import precision
from serving.local import LocalClient
from serving.options import add_arguments, options_from
from serving.server import EmbeddedServer

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx512f {}\nbugs\t\t:\n"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Images of words by path, with their texts."""
    summary = generate(tmp_path_factory.mktemp("words") / "data", images=40, seed=12, dirty_fraction=0)
    with summary.csv.open(encoding="utf-8", newline="") as file:
        return {summary.directory / "images" / row["FILENAME"]: row["IDENTITY"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def version():
    return Path(unpack("word"))


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Sets what Linux says of the processor."""

    def told(content: str | None) -> None:
        file = tmp_path / "cpuinfo"
        if content is not None:
            file.write_text(content, encoding="utf-8")
        monkeypatch.setattr(precision, "_CPU_INFO", file)
        precision.has_bfloat16.cache_clear()

    yield told
    precision.has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("content", "has"),
    [
        (X86.format("avx512_bf16"), True),
        (X86.format("amx_bf16 amx_tile"), True),
        (X86.format("avx512_vnni"), False),
        ("processor : 0\nFeatures : fp asimd bf16\n", False),
        ("", False),
        (None, False),
    ],
)
def test_a_processor_has_it_or_not(processor, content, has):
    processor(content)
    assert precision.has_bfloat16() is has


def test_texts_are_as_good(version, words):
    with LocalClient(version) as plain, LocalClient(version, bfloat16=True) as mixed:
        results = [list(client.transcribe_many(words)) for client in (plain, mixed)]
    cers = [count_errors(list(words.values()), [result.text for result in some]).rate for some in results]
    assert abs(cers[0] - cers[1]) < 0.02
    confidences = [np.array([result.confidence for result in some]) for some in results]
    np.testing.assert_allclose(*confidences, atol=0.1)
    # It does something where it can, and nothing elsewhere.
    assert np.array_equal(*confidences) is not precision.has_bfloat16()


def test_the_server_takes_the_flag_of_the_real_one(version, words, processor, caplog):
    def texts_with(flag: str) -> list[str]:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        given = ["--port=0", "--model_name=htr", f"--model_base_path={version.parent}", f"--mixed_precision={flag}"]
        caplog.clear()
        with (
            caplog.at_level(logging.WARNING, "serving.server"),
            EmbeddedServer(options_from(parser.parse_args(given))) as server,
            HtrClient(server.address) as client,
        ):
            return [result.text for result in client.transcribe_many(words)]

    expected = texts_with("")
    assert "bfloat16" not in caplog.text
    assert texts_with("int4") == expected
    assert "int4 auto mixed precision is not supported. Valid option: bfloat16" in caplog.text
    processor("")
    assert texts_with("bfloat16") == expected
    assert "this processor has neither AVX512_BF16 nor AMX" in caplog.text


def test_a_batch_that_began_in_float32_goes_on_in_float32(version):
    assert Transcriber(str(version)).fingerprint() != Transcriber(str(version), bfloat16=True).fingerprint()


def test_batches_choose_for_themselves(version, words):
    folder, images = str(next(iter(words)).parent), [Image(path.name, "") for path in words]
    found = {}
    for mixed in (False, True):
        transcriber = Transcriber(str(version), bfloat16=mixed)
        found[mixed] = [result for _, result in transcriber.transcribe(folder, images)]
    cers = [count_errors(list(words.values()), [result.text for result in found[mixed]]).rate for mixed in found]
    assert abs(cers[0] - cers[1]) < 0.02
    confidences = [[result.confidence for result in found[mixed]] for mixed in found]
    assert (confidences[0] != confidences[1]) is precision.has_bfloat16()


def test_htr_transcribe_refuses_what_the_processor_lacks(version, words, processor, tmp_path, capsys):
    processor(X86.format("avx512_vnni"))
    folder = str(next(iter(words)).parent)
    command = ["transcribe", "--model", str(version), "--input", folder, "--output", str(tmp_path / "t.csv")]
    assert cli.main([*command, "--bfloat16"]) == transcribe.USAGE
    assert "this machine's processor has neither AVX512_BF16 nor AMX" in capsys.readouterr().err
