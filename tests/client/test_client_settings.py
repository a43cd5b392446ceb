"""What is refused at once and how it is told, without secrets; and what the package offers by name."""

import asyncio
import math
import subprocess
import sys

import numpy as np
import pytest

from htr_client import AsyncHtrClient, BestPath, HtrClient, Tls
from htr_client.beam import PrefixBeamSearch
from htr_client.errors import AlphabetMismatch, HtrError, RequestRefused
from htr_client.language import CharacterModel
from htr_client.lexicon import Lexicon
from htr_client.testing import draw, png
from tests.client.conftest import refuse

# Secrets.


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (("authorization", "Bearer s3cret\n"), r"'authorization' has '\\n' at position 13"),
        (("authorization", "s3crét"), r"'authorization' has 'é' at position 4"),
        (("authorization", b"s3cret\0"), r"'authorization' has '\\x00' at position 6"),
        (("authorization", ["s3cret"]), r"'authorization' is of type list"),
        (("token-bin", "s3cret"), r"'token-bin' is of type str.* bytes where the name ends with -bin"),
        (("Authorization", "s3cret"), r"name of metadata 'Authorization' has 'A' at position 0"),
        (("", "s3cret"), "no characters"),
    ],
)
def test_metadata_that_grpc_does_not_take_is_told_without_its_value(kind, server, pair, told):
    with kind(server.address, metadata=lambda: [pair]) as client, pytest.raises(RequestRefused, match=told) as error:
        client.transcribe(png("a"))
    assert "s3cret" not in str(error.value) and "s3cr" not in repr(error.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [(None, "NoneType"), ("s3cret", "str"), (["s3cret"], "a str where a pair"), ([(b"s3cret", "a")], "a tuple where")],
)
def test_metadata_that_is_no_pairs_is_told_without_its_value(kind, server, given, told):
    with kind(server.address, metadata=lambda: given) as client, pytest.raises(RequestRefused, match=told) as error:
        client.transcribe(png("a"))
    assert "s3cret" not in str(error.value)


def test_metadata_that_is_too_much_for_a_server_is_told_without_its_value(kind, server):
    told = "received metadata size exceeds hard limit (value length 20000 vs. 16384)"
    refused = refuse(server.model, lambda request: told)
    pairs = [("x-request-id", "7"), ("authorization", "s3cret" * 9), ("x-tenant", "eight")]
    with kind(server.address, metadata=lambda: pairs) as client:
        for call in (client.transcribe, lambda image: list(client.transcribe_many([image]))):
            with pytest.raises(RequestRefused, match="the largest is 'authorization' with 54 bytes") as error:
                call(png("a"))
            assert "s3cret" not in str(error.value) and not error.value.retryable
    assert len(refused) == 2, "each call is sent once"


def test_metadata_may_be_a_mapping(kind, server):
    with kind(server.address, metadata=lambda: {"x-request-id": "7"}) as client:
        client.transcribe(png("a"))
    assert server.model.metadata[-1]["x-request-id"] == "7"


def test_metadata_may_be_bytes(kind, server):
    pairs = [("x-request-id", b"7"), ("token-bin", b"\0\xff")]
    with kind(server.address, metadata=lambda: pairs) as client:
        assert client.transcribe(png("a")).text == "a"
    assert all((sent["x-request-id"], sent["token-bin"]) == ("7", b"\0\xff") for sent in server.model.metadata)


def test_a_private_key_is_never_shown(certificates):
    key = "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n"
    assert "s3cret" not in repr(Tls(key=key.encode(), certificate="me.pem"))
    with pytest.raises(ValueError, match="given as bytes") as error:
        Tls(key=key, certificate=certificates / "client.pem").credentials()
    assert "s3cret" not in str(error.value)
    with pytest.raises(ValueError, match="given as bytes"):
        HtrClient("localhost:1", tls=Tls(ca=key))


# Settings.


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"decoder": BestPath}, TypeError, r"the class BestPath: .* BestPath\(\)"),
        ({"metadata": [("authorization", "s3cret")]}, TypeError, "metadata is a function .*, not a list"),
        ({"patience": math.nan}, ValueError, "patience .* not nan"),
        ({"patience": -1}, ValueError, "patience .* not -1"),
        ({"max_pixels": -1}, ValueError, "max_pixels is positive, not -1"),
        ({"max_pixels": 0}, ValueError, "max_pixels is positive, not 0"),
        ({"model": ""}, ValueError, "model is empty: .* environment"),
        ({"model": None}, TypeError, "model is a str, not a NoneType"),
        ({"label": ""}, ValueError, "label is empty: .* environment"),
        ({"label": 3}, TypeError, "label is a str, not a int"),
        ({"version": "3"}, TypeError, "version is an int, not a str: '3'"),
        ({"timeout": "15"}, TypeError, "timeout is a number of seconds .*, not a str: '15'"),
        ({"timeout": None}, TypeError, r"timeout is a number of seconds \(math.inf for no limit\), not a NoneType"),
        ({"patience": "60"}, TypeError, "patience is a number of seconds"),
        ({"batch_size": 2.5}, TypeError, "batch_size is an int, not a float: 2.5"),
        ({"max_message_bytes": 8e6}, TypeError, "max_message_bytes is an int, not a float"),
        ({"tls": "s3cret.pem"}, TypeError, r"tls is True or a Tls, such as Tls\(ca='ca.pem'\), not a str"),
        ({"log": "requests"}, TypeError, r"log is a RequestLog, such as RequestLog\('requests'\), not a str"),
        ({"metrics": True}, TypeError, "metrics is a ClientMetrics, .* not a bool"),
    ],
)
def test_impossible_settings_are_refused_by_the_constructor(kind, server, settings, error, told):
    with pytest.raises(error, match=told) as raised:
        kind(server.address, **settings)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("target", [None, 8500, b"localhost:8500", [None], ["localhost:8500", None]])
def test_what_is_no_target_is_refused_by_the_constructor(kind, target):
    with pytest.raises(TypeError, match=r"an address is a str, .*, not a (NoneType|int|bytes)") as raised:
        kind(target)
    assert ("variable of the environment not set" in str(raised.value)) == ("NoneType" in str(raised.value))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_that_are_no_numbers(number):
    model = CharacterModel(["a"])
    for settings, name in (
        ({"language_model": model, "language_weight": number}, "language_weight"),
        ({"language_model": model, "length_bonus": number}, "length_bonus"),
    ):
        with pytest.raises(ValueError, match=f"{name}.* {number}"):
            PrefixBeamSearch(**settings)
    with pytest.raises(ValueError, match=f"unknown .* not {number}"):
        Lexicon(["a"], unknown=number)
    with pytest.raises(ValueError, match=f"weight .* {number}"):
        Lexicon({"a": 1}, weight=number)
    assert Lexicon(["a"], unknown=-math.inf).unknown == -math.inf


@pytest.mark.parametrize("kind_of", [Lexicon, Lexicon.from_texts, CharacterModel])
def test_one_text_is_not_several(kind_of):
    with pytest.raises(TypeError, match=r"several texts, such as a list, not one str: give \[text\]"):
        kind_of("Anna und Otto")


def test_words_are_no_lexicon_and_texts_no_language_model():
    with pytest.raises(TypeError, match=r"such as Lexicon\(words\), not a list"):
        PrefixBeamSearch(lexicon=["a"])
    with pytest.raises(TypeError, match=r"such as CharacterModel\(texts\), not a list"):
        PrefixBeamSearch(language_model=["a"])


def test_the_fake_model_says_what_it_reads():
    with pytest.raises(ValueError, match="letters abcdefghijklmnopqrstuvwxyz only, not ' Hü'"):
        draw("Hallo fünf")


# One image instead of several.


@pytest.mark.parametrize("kind_of", ["str", "bytes", "bytearray", "path", "array"])
def test_one_image_is_not_several(kind_of, server, tmp_path):
    images = {
        "str": "ab.png",
        "bytes": b"ab",
        "bytearray": bytearray(b"ab"),
        "path": tmp_path / "ab.png",
        "array": np.zeros((4, 9, 9), np.uint8),
    }
    for client in (HtrClient(server.address), AsyncHtrClient(server.address)):
        with pytest.raises(TypeError, match=r"give \[image\]"):
            client.transcribe_many(images[kind_of])  # at once: nothing is taken from it
    with pytest.raises(TypeError, match="not iterable"):
        HtrClient(server.address).transcribe_many(7)
    with pytest.raises(TypeError, match="not iterable"):
        AsyncHtrClient(server.address).transcribe_many(7)


def test_generators_of_results_can_be_closed(server):
    import contextlib

    with HtrClient(server.address) as client, contextlib.closing(client.transcribe_many([png("a")] * 3)) as results:
        assert next(results).text == "a"

    async def run():
        client = AsyncHtrClient(server.address)
        async with client, contextlib.aclosing(client.transcribe_many([png("a")] * 3)) as results:
            return (await anext(results)).text

    assert asyncio.run(run()) == "a"


# Whose fault: a lexicon of another script is one of usage.


def test_a_lexicon_that_the_model_cannot_write_is_a_mistake_of_the_caller(kind, server):
    for parts in ({"lexicon": Lexicon(["слово"])}, {"language_model": CharacterModel(["слово"])}):
        with kind(server.address, decoder=PrefixBeamSearch(**parts)) as client:
            with pytest.raises(AlphabetMismatch, match="the model's alphabet") as error:
                client.transcribe(png("a"))
            assert not error.value.retryable and "lexicon" in error.value.advice
            with pytest.raises(AlphabetMismatch):
                list(client.transcribe_many([png("a")]))


def test_the_command_ends_with_2_for_it(call, tmp_path):
    (tmp_path / "a.png").write_bytes(png("a"))
    (tmp_path / "words").write_text("слово\n", encoding="utf-8")
    for option in ("--lexicon", "--lm"):
        code, out, err = call(tmp_path / "a.png", option, tmp_path / "words")
        assert (code, out) == (2, "") and "the model's alphabet" in err and option in err


def test_the_command_refuses_weights_that_are_no_numbers(call, tmp_path):
    (tmp_path / "a.png").write_bytes(png("a"))
    (tmp_path / "words").write_text("a\n")
    for options in (
        ["--lexicon", tmp_path / "words", "--lexicon-penalty", "nan"],
        ["--lm", tmp_path / "words", "--lm-weight", "nan"],
    ):
        code, out, err = call(tmp_path / "a.png", *options)
        assert (code, out) == (2, "") and options[2] in err and "not nan" in err


# Names.


def test_every_exception_and_decoder_is_at_the_top():
    import htr_client.errors

    for name, value in vars(htr_client.errors).items():
        if isinstance(value, type) and issubclass(value, HtrError):
            assert getattr(htr_client, name) is value
            assert name in htr_client.__all__ or name == "PictureError"
    for name in ("PrefixBeamSearch", "Lexicon", "CharacterModel", "TimedOut"):
        assert name in dir(htr_client)


def test_submodules_are_found_and_nothing_is_loaded_before():
    code = (
        "import sys, htr_client\n"
        "assert not [name for name in sys.modules if name.startswith('htr_client.')]\n"
        "assert htr_client.errors.TimedOut is htr_client.TimedOut\n"
        "assert htr_client.pages.write and 'grpc' not in sys.modules\n"
        "assert not hasattr(htr_client, 'nothing') and not hasattr(htr_client, '_nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
