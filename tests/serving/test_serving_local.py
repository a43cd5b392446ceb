"""A version in this process gives what the same version gives over the network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import serving_toy as toy

from htr_client import HtrClient
from htr_client.errors import ImageError, ModelUnusable
from serving.local import LocalClient
from serving.runner import import_tensorflow
from serving.server import EmbeddedServer


@pytest.fixture(scope="module")
def version(tmp_path_factory, toy_model):
    return toy.push(toy_model, tmp_path_factory.mktemp("local") / "htr", 7)


def untimed(results):
    return [replace(result, timings=None, error=None) for result in results], [str(result.error) for result in results]


def test_results_are_those_of_a_server(version):
    images = [toy.png(40 + 9 * seed, 32, seed) for seed in range(12)]
    images[5] = images[5][:-30]
    with (
        EmbeddedServer(model_name="htr", model_base_path=str(version.parent), port=0) as server,
        HtrClient(server.address, batch_size=4) as remote,
        LocalClient(version, batch_size=4) as local,
    ):
        expected, found = (list(client.transcribe_many(images)) for client in (remote, local))
        assert untimed(found) == untimed(expected)
        assert [result.version for result in found] == [7] * 5 + [0] + [7] * 6
        assert local.transcribe(images[0], source="one").source == "one"
        assert local.model_status() == remote.model_status()
        with pytest.raises(ImageError, match="ends early"):
            local.transcribe(images[5])


def test_threads_share_one_model_and_a_closed_client_opens_again(version):
    image = toy.png()
    client = LocalClient(version)
    with ThreadPoolExecutor(4) as pool:
        texts = set(pool.map(lambda _: client.transcribe(image).text, range(8)))
    client.close()
    assert {client.transcribe(image).text} == texts
    client.close()


@pytest.mark.parametrize("damage", ["no_graph", "corrupt_graph", "no_variables", "truncated_variables"])
def test_a_damaged_version_is_named(tmp_path, toy_model, damage):
    damaged = toy.push(toy_model, tmp_path, 1, damage)
    with pytest.raises(ModelUnusable, match=rf"the model in {damaged} cannot be loaded: .*roll back"):
        LocalClient(damaged).connect()


def test_a_model_without_the_signatures_is_named_at_once(tmp_path):
    tf = import_tensorflow()
    module = tf.Module()
    module.answer = tf.function(lambda query: {"answer": query}, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"answer": module.answer})
    with LocalClient(tmp_path / "1") as client:
        with pytest.raises(ModelUnusable, match='"serving_default" not found'):
            client.transcribe(toy.png())
        with pytest.raises(ModelUnusable):
            list(client.transcribe_many([toy.png()]))
