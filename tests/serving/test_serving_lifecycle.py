"""Versions come and go under load, and nobody notices."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import serving_toy as toy
from serving_client import Client, Load, fails

from htr_client import HtrClient
from serving import model_manager
from serving.server import EmbeddedServer
from serving.status import ServingError
from tests.conftest import until

LOADING, AVAILABLE, UNLOADING, END = 20, 30, 40, 50
FAST = {
    "port": 0,
    "model_name": "htr",
    "file_system_poll_wait_seconds": 0.05,
    "max_num_load_retries": 0,
    "tensorflow_session_parallelism": 1,
}


@pytest.fixture
def base(tmp_path, toy_model):
    toy.push(toy_model, tmp_path / "htr", 1)
    return tmp_path / "htr"


def serve(base, **settings) -> EmbeddedServer:
    return EmbeddedServer(model_base_path=str(base), **{**FAST, **settings})


@pytest.mark.either_stack
@pytest.mark.slow
@pytest.mark.parametrize("batching", [False, True], ids=["plain", "batching"])
def test_no_request_fails_while_versions_come_and_go(base, toy_model, image, batching):
    wanted = 2000 if batching else 5000
    request = toy.predict_request({"image_bytes": [image]}, "transcribe")
    with serve(base, enable_batching=batching) as server, Client(server.address) as client:
        with Load(server.address, request) as load:
            load.wait_version(1)
            toy.push(toy_model, base, 2)
            load.wait_version(2)
            client.wait_state(1, END)
            toy.push(toy_model, base, 3)
            load.wait_version(3)
            shutil.rmtree(base / "3")
            load.wait_version(2)
            broken = ["truncated_variables", "no_variables_no_warmup", "bad_warmup", "corrupt_graph", "no_graph"]
            for number, damage in enumerate(broken, 4):
                toy.push(toy_model, base, number, damage)
                client.wait_state(number, END)
                load.wait_version(2)
            toy.push(toy_model, base, 20)
            load.wait_version(20)
            until(lambda: load.codes["OK"] >= wanted, 40, lambda: load.errors)
        assert load.errors == []
        status = {row.version: row.status for row in client.status().model_version_status}
        assert status[4].error_code == 11 and status[4].error_message.startswith("Read less bytes than requested")
        assert status[5].error_code == 5 and "holds no checkpoint" in status[5].error_message
        assert status[6].error_code == 3 and "Unknown image file format" in status[6].error_message
        assert status[7].error_code == 15
        assert status[8].error_code == 5 and "Could not find SavedModel" in status[8].error_message
        assert [row.version for row in client.status().model_version_status] == sorted(status, reverse=True)


def test_an_old_version_ends_only_after_its_last_request(base, toy_model):
    slow = toy.predict_request({"rounds": [3000]}, "burn")
    with serve(base) as server, Client(server.address) as client:
        future = client.prediction.Predict.future(slow, timeout=60)
        with server.manager.use(slow.model_spec):  # as a request that lasts until the new version is there
            version = server.manager.versions.serving["htr"][1]
            until(lambda: version.requests == 2)
            toy.push(toy_model, base, 2)
            client.wait_state(2, AVAILABLE)
            assert future.result().model_spec.version.value == 1
            assert client.states()[1] == UNLOADING
        client.wait_state(1, END)


def test_a_restarted_server_falls_back_to_the_newest_good_version(base, toy_model, image):
    toy.push(toy_model, base, 2)
    toy.push(toy_model, base, 3, "truncated_variables")
    toy.push(toy_model, base, 4, "bad_warmup")
    request = toy.predict_request({"image_bytes": [image]})
    # The retries of the broken ones take minutes; nobody waits for them.
    with serve(base, max_num_load_retries=5) as server, Client(server.address) as client:
        assert client.predict(request).model_spec.version.value == 2
        toy.push(toy_model, base, 5)
        client.wait_state(5, AVAILABLE)
        client.wait_state(2, END)
        assert client.predict(request).model_spec.version.value == 5


def test_a_start_without_a_good_version_ends(base, toy_model):
    toy.push(toy_model, base, 2, "truncated_variables")
    shutil.rmtree(base / "1")
    with pytest.raises(ServingError) as failure:
        serve(base).start()
    assert failure.value.message.startswith(
        "1 servable(s) did not become available: {{{name: htr version: 2} due to error: OUT_OF_RANGE: "
        "Read less bytes than requested"
    )


def test_pushes_leave_no_file_open(base, toy_model, image):
    request = toy.predict_request({"image_bytes": [image]})

    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    with serve(base, rest_api_port=-1) as server, Client(server.address) as client:
        counts = []
        for version in range(2, 7):
            toy.push(toy_model, base, version)
            client.wait_state(version, AVAILABLE)
            client.wait_state(version - 1, END)
            assert client.predict(request).model_spec.version.value == version
            counts.append(handles())
    assert len(set(counts)) == 1, counts


def test_versions_that_ended_leave_no_model_in_memory(base, toy_model, image):
    """Good ones and broken ones, without the garbage collector, which comes late and holds up all answers."""
    request = toy.predict_request({"image_bytes": [image]})

    def models() -> tuple[int, int]:
        kinds = Counter(type(found).__name__ for found in gc.get_objects())
        return kinds["LoadedModel"], kinds["Graph"]

    gc.collect()
    before = models()
    gc.disable()
    try:
        with serve(base) as server, Client(server.address) as client:
            for version, damage in enumerate(["", "truncated_variables", "bad_warmup", ""], start=2):
                toy.push(toy_model, base, version, damage)
                client.wait_state(version, END if damage else AVAILABLE)
                client.predict(request)
            client.wait_state(2, END)
            until(lambda: models() == (before[0] + 1, before[1] + 1), 10, lambda: (before, models()))
    finally:
        gc.enable()


LABELLED = """model_config_list {{ config {{
  name: "htr" base_path: "{base}" model_platform: "tensorflow"
  model_version_policy {{ specific {{ versions: 1 versions: 2 versions: 3 }} }}
  version_labels {{ key: "stable" value: 1 }} version_labels {{ key: "canary" value: 3 }}
}} }}"""


def test_ready_means_that_every_configured_version_answers(base, toy_model, image, tmp_path):
    """The newest version is loaded first; who asks for the label of an older one then is not to be told NOT_FOUND."""
    for version in (2, 3):
        toy.push(toy_model, base, version)
    (tmp_path / "models.config").write_text(LABELLED.format(base=base))
    settings = {
        "model_config_file": str(tmp_path / "models.config"),
        "allow_version_labels_for_unavailable_models": True,
        "rest_api_port": -1,
    }
    with EmbeddedServer(**FAST, **settings) as server, Client(server.address) as client:
        assert client.health() == 1
        assert client.states() == {1: AVAILABLE, 2: AVAILABLE, 3: AVAILABLE}
        for label, version in (("stable", 1), ("canary", 3)):
            request = toy.predict_request({"image_bytes": [image]}, label=label)
            assert client.predict(request).model_spec.version.value == version


def test_a_start_that_takes_long_says_what_is_loading(base, caplog, monkeypatch):
    monkeypatch.setattr(model_manager, "_SAY_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "serving"), serve(base):
        assert "still loading htr version 1" in caplog.messages


def test_without_a_configured_version_that_is_broken_the_others_are_served(base, toy_model, tmp_path):
    toy.push(toy_model, base, 2)
    toy.push(toy_model, base, 3, "truncated_variables")
    (tmp_path / "models.config").write_text(LABELLED.format(base=base))
    settings = {
        "model_config_file": str(tmp_path / "models.config"),
        "allow_version_labels_for_unavailable_models": True,
    }
    with EmbeddedServer(**FAST, **settings) as server, Client(server.address) as client:
        assert client.states() == {1: AVAILABLE, 2: AVAILABLE, 3: END}


def test_a_server_without_versions_waits_for_the_first_one(tmp_path, toy_model):
    base = tmp_path / "htr"
    base.mkdir()
    server = serve(base)
    thread = threading.Thread(target=server.start)
    thread.start()
    time.sleep(0.3)
    assert not server.port
    toy.push(toy_model, base, 7)
    thread.join(20)
    with Client(server.address) as client:
        assert client.states() == {7: AVAILABLE}
    server.stop()


def test_half_a_copy_is_retried(base, toy_model):
    retries = {"max_num_load_retries": 50, "load_retry_interval_micros": 50_000}
    with serve(base, **retries) as server, Client(server.address) as client:
        shutil.copytree(toy_model, base / "2", ignore=shutil.ignore_patterns("variables"))
        time.sleep(0.3)
        assert client.states()[2] == LOADING
        shutil.copytree(toy_model / "variables", base / "2" / "variables")
        client.wait_state(2, AVAILABLE)


def test_labels_move_in_two_steps(base, toy_model, image):
    toy.push(toy_model, base, 2)
    config = {"name": "htr", "base_path": base, "versions": [1, 2]}
    with serve(base) as server, Client(server.address) as client:

        def label(name):
            request = toy.predict_request({"image_bytes": [image]}, label=name)
            return client.predict(request).model_spec.version.value

        with pytest.raises(grpc.RpcError) as failure:
            client.reload([{**config, "labels": {"stable": 1}}])
        assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        client.reload([config])
        client.wait_state(1, AVAILABLE)
        client.reload([{**config, "labels": {"stable": 1, "canary": 2}}])
        assert (label("stable"), label("canary")) == (1, 2)
        toy.push(toy_model, base, 3, "bad_warmup")  # a bad push does not touch what is labelled
        time.sleep(0.3)
        assert (label("stable"), label("canary")) == (1, 2)
        client.reload([{**config, "labels": {"stable": 2}}])
        assert label("stable") == 2


def test_a_reload_replaces_the_whole_configuration(base, toy_model, image, tmp_path):
    toy.push(toy_model, tmp_path / "other", 5)
    request = toy.predict_request({"image_bytes": [image]}, model="other")
    with serve(base) as server, Client(server.address) as client:
        client.reload([{"name": "other", "base_path": tmp_path / "other"}])
        assert client.predict(request).model_spec.version.value == 5
        client.wait_state(1, END)
        with pytest.raises(grpc.RpcError) as failure:
            client.reload([{"name": "nowhere", "base_path": tmp_path / "nowhere"}], timeout=0.5)
        assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        client.reload([{"name": "other", "base_path": tmp_path / "other"}])  # the lock is free again
        assert client.predict(request).model_spec.version.value == 5


def test_a_reload_whose_caller_gave_up_while_it_waited_changes_nothing(base, image, tmp_path):
    here, nowhere = {"name": "htr", "base_path": base}, {"name": "nowhere", "base_path": tmp_path / "nowhere"}
    with serve(base) as server, Client(server.address) as client, ThreadPoolExecutor(1) as pool:
        blocking = pool.submit(fails, client.reload, [here, nowhere], timeout=2)
        until(server.manager._config_lock.locked, 10)
        assert fails(client.reload, [{"name": "renamed", "base_path": base}], timeout=0.5)[0] == "DEADLINE_EXCEEDED"
        assert blocking.result()[0] == "DEADLINE_EXCEEDED"
        until(lambda: not server.front.reloads.active, 10)
        assert client.states(name="renamed") == {}
        assert client.predict(toy.predict_request({"image_bytes": [image]})).model_spec.version.value == 1


def test_a_reload_without_a_deadline_ends_when_its_caller_leaves(base, tmp_path):
    here, nowhere = {"name": "htr", "base_path": base}, {"name": "nowhere", "base_path": tmp_path / "nowhere"}
    with serve(base) as server, Client(server.address) as client:
        with Client(server.address) as other, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(other.reload, [here, nowhere], timeout=None)
            until(server.manager._config_lock.locked, 10)
            other.close()
            assert waiting.exception().code() == grpc.StatusCode.CANCELLED
        client.reload([here], timeout=5)
        client.wait_state(1, AVAILABLE)


def test_a_reload_that_waits_does_not_hold_up_the_end(base, tmp_path):
    here, nowhere = {"name": "htr", "base_path": base}, {"name": "nowhere", "base_path": tmp_path / "nowhere"}
    with serve(base) as server, Client(server.address) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fails, client.reload, [here, nowhere], timeout=None)
        until(server.manager._config_lock.locked, 10)
        server.stop(grace=5)
        assert waiting.result() == ("CANCELLED", "the server is shutting down")


def test_a_reload_from_another_directory_leaves_no_gap(base, toy_model, image, tmp_path):
    toy.push(toy_model, tmp_path / "moved", 1)
    request = toy.predict_request({"image_bytes": [image]}, "transcribe")
    with serve(base) as server, Client(server.address) as client, Load(server.address, request, threads=2) as load:
        load.wait_version(1)
        client.reload([{"name": "htr", "base_path": tmp_path / "moved"}])
        until(lambda: server.manager.versions.serving["htr"][1].path == str(tmp_path / "moved" / "1"), 20)
        load.wait_version(1)
    assert load.errors == []


def test_a_reload_keeps_the_line_finder_of_the_options(base, toy_model, tmp_path):
    """The file of labels, which htr promote sends to a running htr serve --pages, does not hold it."""
    toy.push(toy_model, tmp_path / "lines", 1)  # any model will do
    toy.push(toy_model, tmp_path / "other-lines", 5)
    recogniser = {"name": "htr", "base_path": base, "versions": [1], "labels": {"stable": 1}}
    with serve(base, line_finder_base_path=str(tmp_path / "lines")) as server, Client(server.address) as client:
        assert client.states(name="htr-lines") == {1: AVAILABLE}
        client.reload([recogniser])
        time.sleep(0.3)  # several looks into the directories
        assert client.states(name="htr-lines") == {1: AVAILABLE}
        client.reload([recogniser, {"name": "htr-lines", "base_path": tmp_path / "other-lines"}])
        client.wait_state(5, AVAILABLE, name="htr-lines")


def test_configuration_file_is_polled(base, toy_model, tmp_path, image, caplog):
    file = tmp_path / "models.config"
    text = 'model_config_list {{ config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" }} }}'
    file.write_text(text.format("htr", base))
    settings = {**FAST, "model_config_file": str(file), "model_config_file_poll_wait_seconds": 0.1}
    with EmbeddedServer(**settings) as server, Client(server.address) as client:
        assert client.states() == {1: AVAILABLE}
        file.write_text(text.format("renamed", base))
        client.wait_state(1, AVAILABLE, name="renamed")
        # A label for a version that is still to come is refused, and given once it is there.
        label = 'version_labels { key: "canary" value: 2 }'
        file.write_text(text.format("renamed", base).replace("model_platform", f"{label} model_platform"))
        request = toy.predict_request({"image_bytes": [image]}, "transcribe")
        request.model_spec.name, request.model_spec.version_label = "renamed", "canary"
        until(lambda: "assign label to version 2" in caplog.text, 20)
        toy.push(toy_model, base, 2)
        client.wait_state(2, AVAILABLE, name="renamed")

        def answered():
            with contextlib.suppress(grpc.RpcError):
                return client.predict(request).model_spec.version.value

        assert until(answered, 20) == 2
        for content in ("", 'custom_model_config { type_url: "x" }'):  # as while it is written anew
            caplog.clear()
            file.write_text(content)
            until(lambda: "only legal to transition from one ModelConfigList to another" in caplog.text, 20)
            assert answered() == 2
        file.write_text("model_config_list {}")  # on purpose
        until(lambda: not answered(), 20)


def test_an_empty_configuration_file_is_one_that_is_still_to_be_written(base, tmp_path):
    file = tmp_path / "models.config"
    file.write_text('custom_model_config { type_url: "x" }')
    settings = {**FAST, "model_config_file": str(file), "model_config_file_poll_wait_seconds": 0.1}
    with pytest.raises(ServingError, match="only legal to transition"):
        EmbeddedServer(**settings).start()
    file.write_text("")
    with EmbeddedServer(**settings) as server, Client(server.address) as client:
        entry = f'name: "htr" base_path: "{base}" model_platform: "tensorflow"'
        file.write_text(f"model_config_list {{ config {{ {entry} }} }}")
        client.wait_state(1, AVAILABLE)


def test_a_change_of_the_configuration_file_while_the_first_versions_load_is_applied(toy_model, tmp_path):
    base, file = tmp_path / "htr", tmp_path / "models.config"
    text = 'model_config_list {{ config {{ name: "{}" base_path: "{}" model_platform: "tensorflow" }} }}'
    base.mkdir()
    file.write_text(text.format("htr", base))
    settings = {**FAST, "model_config_file": str(file), "model_config_file_poll_wait_seconds": 0.1}
    server = EmbeddedServer(**settings)
    thread = threading.Thread(target=server.start, daemon=True)
    thread.start()
    until(lambda: server.manager is not None and server.manager._config_lock.locked(), 20)
    file.write_text(text.format("renamed", base))
    toy.push(toy_model, base, 1)
    thread.join(20)
    try:
        with Client(server.address) as client:
            client.wait_state(1, AVAILABLE, name="renamed", timeout=5)
    finally:
        server.stop()


def test_callers_that_meet_a_new_version_at_once_ask_it_once_for_its_alphabet(base, toy_model, image):
    with serve(base) as server, HtrClient(server.address) as client, ThreadPoolExecutor(16) as pool:
        answered = server.service.metrics.request_count
        for version in (1, 2):
            if version > 1:
                toy.push(toy_model, base, version)
            with Client(server.address) as watcher:
                watcher.wait_state(version, AVAILABLE)
            before = answered.value("htr", "OK")
            results = list(pool.map(lambda _: client.transcribe(image), range(16)))
            assert {result.version for result in results} == {version}
            assert answered.value("htr", "OK") - before == 16 + 1  # the toy has no language model to ask for
