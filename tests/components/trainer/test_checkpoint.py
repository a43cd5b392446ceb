"""The state of a training is whole or not there, also where two runs write the same one; what is abandoned goes."""

import os
import time

import numpy as np
import pytest
import tensorflow as tf

from components.trainer import checkpoint

DAY = 24 * 3600.0


def save(path, value=1.0):
    checkpoint.save(str(path), {"model/0": np.full(100, value)}, {"done": value})


def age(path, seconds):
    """Makes a file or folder, with all in it, so old."""
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - seconds,) * 2)


def test_two_runs_that_save_one_state_at_once_do_not_disturb_each_other(tmp_path, monkeypatch):
    path, rename = tmp_path / "checkpoint.npz", tf.io.gfile.rename

    def after_the_other_one(*args, **kwargs):
        monkeypatch.setattr(tf.io.gfile, "rename", rename)
        save(path, 2.0)
        assert checkpoint.load(str(path))[1] == {"done": 2.0}
        rename(*args, **kwargs)

    monkeypatch.setattr(tf.io.gfile, "rename", after_the_other_one)
    save(path, 1.0)
    arrays, progress = checkpoint.load(str(path))
    assert progress == {"done": 1.0} and (arrays["model/0"] == 1.0).all()
    assert os.listdir(tmp_path) == ["checkpoint.npz"]


def test_a_save_that_fails_leaves_the_old_state_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    save(path)

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(tf.errors.ResourceExhaustedError):
        patch.setattr(tf.io.gfile, "rename", full)
        save(path, 2.0)
    assert os.listdir(tmp_path) == ["checkpoint.npz"] and checkpoint.load(str(path))[1] == {"done": 1.0}


def test_a_state_that_another_run_replaces_while_it_is_read_is_read_again(tmp_path, monkeypatch, capsys):
    path, read = tmp_path / "checkpoint.npz", tf.io.gfile.GFile.read
    save(path)

    def cut(file):
        monkeypatch.setattr(tf.io.gfile.GFile, "read", read)
        return read(file)[:300]

    monkeypatch.setattr(tf.io.gfile.GFile, "read", cut)
    assert checkpoint.load(str(path))[1] == {"done": 1.0}
    assert not capsys.readouterr().err


def test_a_damaged_state_is_told_once_and_a_missing_one_is_none(tmp_path, capsys):
    path = tmp_path / "checkpoint.npz"
    assert checkpoint.load(str(path)) is None and not capsys.readouterr().err
    save(path)
    path.write_bytes(path.read_bytes()[:300])
    assert checkpoint.load(str(path)) is None
    assert " ".join(capsys.readouterr().err.split()).count("the training starts anew") == 1


def test_a_state_that_has_been_used_goes_with_those_that_were_abandoned(tmp_path):
    names = [
        f"{letter * 16}-{precision}"
        for letter, precision in zip("abc", ("float32", "mixed_float16", "float32"), strict=True)
    ]
    own, old, fresh, lines = (tmp_path / name for name in (*names, f"lines-{'d' * 16}"))
    others, mixed = tmp_path / "datasets", tmp_path / ("e" * 16)
    for folder in (own, old, fresh, lines, others, mixed):
        save(folder / "checkpoint.npz")
    (mixed / "notes.txt").touch()
    (own / "checkpoint.npz.incoming-killed").touch()
    age(own / "checkpoint.npz.incoming-killed", 2 * 3600.0)
    (own / "checkpoint.npz.incoming-now").touch()
    for folder in (old, lines, others, mixed):
        age(folder, 31 * DAY)
    age(fresh, 29 * DAY)
    checkpoint.forget(str(own))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        folder.name for folder in (own, fresh, others, mixed)
    )
    assert [path.name for path in own.iterdir()] == ["checkpoint.npz.incoming-now"]
    checkpoint.forget(str(own))
    checkpoint.forget(str(tmp_path / "nothing" / "here"))
