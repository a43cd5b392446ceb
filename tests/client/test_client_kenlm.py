"""Word language models through the optional library."""

import sys

import numpy as np
import pytest

from htr_client.decoding import Alphabet, log_posteriors
from htr_client.errors import MissingExtra
from htr_client.kenlm import KenLmBeamSearch

ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-1.0\t<unk>\t0
0\t<s>\t-0.3
-1.0\t</s>\t0
-0.6\tred\t-0.3
-0.6\tbed\t-0.3
-0.6\trose\t-0.3

\\2-grams:
-0.1\t<s> red
-0.1\tred rose
-0.1\trose </s>
-2.0\tbed rose

\\end\\
"""
ALPHABET = Alphabet(" bdeors")


def test_a_message_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctc_beam_decoder", None)
    with pytest.raises(MissingExtra, match=r"pip install ctc-beam-decoder \("):
        KenLmBeamSearch("words.arpa")


@pytest.mark.parametrize("numbers", [{"width": 0}, {"alternatives": -1}])
def test_numbers_that_find_nothing_are_refused(numbers):
    with pytest.raises(ValueError, match="width is positive and alternatives not negative"):
        KenLmBeamSearch("words.arpa", **numbers)


def test_a_word_predicts_the_next(tmp_path):
    pytest.importorskip("ctc_beam_decoder")
    (tmp_path / "words.arpa").write_text(ARPA)
    written = "bed rose"  # with an r nearly as likely as the b
    log_probs = np.full((2, len(written) * 2, 8), 0.01)
    for i, character in enumerate(written):
        log_probs[:, 2 * i, ALPHABET.encode(character)[0]] = 0.9
        log_probs[:, 2 * i + 1, ALPHABET.blank] = 0.9
    log_probs[:, 0, ALPHABET.encode("r")[0]] = 0.8
    log_probs = np.log(log_probs / log_probs.sum(axis=2, keepdims=True)).astype(np.float32)
    frames = np.array([16, 0])
    decoder = KenLmBeamSearch(tmp_path / "words.arpa", alternatives=1)
    result, nothing = decoder.decode(log_probs, frames, ALPHABET)
    assert result.text == "red rose"
    assert [alternative.text for alternative in result.alternatives] == ["bed rose"]
    posterior = np.exp(log_posteriors(log_probs[:1], frames[:1], [ALPHABET.encode("red rose")]))[0]
    assert result.confidence == pytest.approx(posterior)
    assert [c.span[0] for c in result.characters] == list(range(0, 16, 2))
    assert (nothing.text, nothing.confidence) == ("", 0.0)
