"""Texts and the numbers of their characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htr_client.decoding import Alphabet

LETTERS = st.lists(st.text(min_size=1, max_size=2), max_size=12, unique=True)


@given(LETTERS, st.data())
def test_texts_of_an_alphabet_are_encoded_and_decoded(letters, data):
    alphabet = Alphabet(letters)
    text = data.draw(st.text(st.sampled_from("".join(letters)), max_size=12) if letters else st.just(""))
    try:
        ids = alphabet.encode(text)
    except ValueError:
        assert any(len(letter) > 1 for letter in letters)  # only half of a letter stands in the text
    else:
        assert alphabet.decode(ids) == text and alphabet.blank not in ids


@given(st.sets(st.sampled_from("abé🖋 .")), st.text("abé🖋 .x", max_size=20))
def test_unknown_characters_are_left_out_or_refused(letters, text):
    alphabet = Alphabet(sorted(letters))
    known = "".join(c for c in text if c in letters)
    assert alphabet.decode(alphabet.encode(text, skip_unknown=True)) == known
    if known != text:
        with pytest.raises(ValueError, match="not in the alphabet"):
            alphabet.encode(text)


def test_alphabet():
    alphabet = Alphabet(["a", "e", "e\u0323", " "])
    assert alphabet.blank == len(alphabet) == 4
    assert alphabet.encode("ae\u0323 e") == [0, 2, 3, 1]
    assert alphabet.decode([0, 2, 3, 1]) == "ae\u0323 e"
    assert alphabet.encode("axe", skip_unknown=True) == [0, 1]
    with pytest.raises(ValueError, match="'x' is not in the alphabet"):
        alphabet.encode("axe")
    for wrong in (["a", "a"], ["a", ""]):
        with pytest.raises(ValueError):
            Alphabet(wrong)
    assert Alphabet("").encode("", skip_unknown=True) == []
