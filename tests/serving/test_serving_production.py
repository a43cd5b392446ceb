"""The production configuration: made from one file, consistent, and accepted by what can be run without Docker."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
import serving_toy as toy
import yaml
from serving_authority import Authority
from serving_client import Client

from htr_client.client import HtrClient
from pipeline import cli
from serving import protos
from serving.batching import BatchingOptions
from serving.configuration import files
from serving.configuration.__main__ import main
from serving.configuration.settings import FOLDER, Settings
from serving.options import _FLAGS, IGNORED_FLAGS, add_arguments, options_from
from serving.server import PROMETHEUS_PATH, EmbeddedServer

pytestmark = pytest.mark.either_stack

SETTINGS = Settings.read()
VARIANTS = ("gpu", "cpu")


def changed(**values) -> dict:
    """The settings as a dict, with changes by dotted path."""
    result = SETTINGS.model_dump()
    for path, value in values.items():
        *parents, last = path.split("__")
        section = result
        for name in parents:
            section = section[name]
        section[last] = value
    return result


def instructions(name: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments."""
    lines = [line for line in (FOLDER / name).read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n", "", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line]


def load(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


def test_the_files_are_made_from_the_settings():
    made = files.render(SETTINGS)
    assert {path.name for path in FOLDER.iterdir()} == {*made, "settings.yaml"}
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text, f"{name}: run python -m serving.configuration render"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants__gpu__grpc_max_threads": 287}, ": variants.gpu: grpc_max_threads must be at least 288"),
        ({"variants__gpu__batching__max_batch_size": 64}, "must be max_batch_size"),
        ({"variants__gpu__batching__allowed_batch_sizes": [1, 8, 4, 32]}, "must increase"),
        ({"variants__gpu__batching__allowed_batch_sizes": []}, "at least 1 item"),
        ({"variants__gpu__batching__max_enqueued_batches": 2}, "threads without work"),
        ({"variants__gpu__batching__batch_timeout_micros": 2_000_000}, "less than or equal"),
        ({"variants__gpu__batching__num_batch_threads": True}, "num_batch_threads"),  # as YAML reads `yes`
        ({"variants__gpu__image": "tensorflow/serving"}, "image"),
        ({"tls": "perhaps"}, "tls"),
        ({"alertmanagers": ["http://alerts:9093"]}, "alertmanagers"),
        ({"clients": ["web"]}, "clients"),
        ({"further_models": ["a|b"]}, "further_models"),
        ({"further_models": ["htr-lines"]}, "htr-lines is watched anyway"),
        ({"further_models": ["a", "htr"]}, "htr is watched anyway"),
        ({"further_models": ["a", "a"]}, "a is watched anyway, or stands twice"),
        ({"grpc_port": 1}, "Extra inputs"),
    ],
)
def test_contradictions_are_refused(tmp_path, capsys, change, message):
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(changed(**change)))
    assert main(["render", "--folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


def test_a_file_of_0_1_0_without_later_settings_is_rendered(tmp_path, capsys):
    old = changed()
    del old["alerts"]["memory_growth"], old["alertmanagers"], old["clients"], old["further_models"]
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(old))
    assert main(["render", "--folder", str(tmp_path)]) == 0, capsys.readouterr().err
    assert (tmp_path / "alerts.yml").read_text() == (FOLDER / "alerts.yml").read_text()


def test_batching_is_what_the_server_reads_and_what_the_client_sends():
    message = protos.read_text_proto(FOLDER / "batching.gpu.config", protos.BatchingParameters())
    options = BatchingOptions.from_proto(message)
    wanted = SETTINGS.variants["gpu"].batching
    assert options.execution_size == wanted.max_batch_size == options.allowed_batch_sizes[-1]
    assert (options.batch_timeout_micros, options.max_enqueued_batches, options.num_batch_threads) == (
        wanted.batch_timeout_micros,
        wanted.max_enqueued_batches,
        wanted.num_batch_threads,
    )
    assert inspect.signature(HtrClient).parameters["batch_size"].default <= wanted.max_batch_size


def test_monitoring_is_scraped_where_it_is_served():
    message = protos.read_text_proto(FOLDER / "monitoring.config", protos.MonitoringConfig())
    job, containers = load("prometheus.yml")["scrape_configs"]
    assert message.prometheus_config.enable and message.prometheus_config.path == job["metrics_path"]
    host, port = containers["static_configs"][0]["targets"][0].split(":")
    measuring = load("docker-compose.yml")["services"][host]
    assert f"--port={port}" in measuring["command"]
    # Older ones, which are in another registry, see no container of Docker 29; nothing but an empty series tells.
    registry, version = measuring["image"].split(":")
    assert registry == "ghcr.io/google/cadvisor" and tuple(map(int, version.split("."))) >= (0, 54)
    readme = (FOLDER.parent / "README.md").read_text()
    (query,) = re.findall(r"Prometheus has values of\s`(container_memory_rss[^`]+)`", readme)
    assert query in (FOLDER / "alerts.yml").read_text()
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    for variant in VARIANTS:
        assert f"--rest_api_port={port}" in files.flags(SETTINGS, variant)
        assert host in load("docker-compose.yml")["services"][f"server-{variant}"]["networks"]["default"]["aliases"]
    assert f'job="{job["job_name"]}"' in (FOLDER / "alerts.yml").read_text()


def test_a_cluster_scrapes_the_pods_of_the_manifests_as_the_job_of_the_alerts():
    (job,) = load("prometheus.kubernetes.yml")["scrape_configs"]
    assert f'up{{job="{job["job_name"]}"}}' in (FOLDER / "alerts.yml").read_text()
    manifest = FOLDER.parents[1] / "kubeflow" / "serving" / "server" / "deployment.yaml"
    pod = yaml.safe_load(manifest.read_text())["spec"]["template"]
    assert job["metrics_path"] == pod["metadata"]["annotations"]["prometheus.io/path"]
    ports = [str(port["containerPort"]) for port in pod["spec"]["containers"][0]["ports"]]
    found = {f"__meta_kubernetes_pod_label_{re.sub('[^a-z]', '_', key)}": [value]
             for key, value in pod["metadata"]["labels"].items()}  # fmt: skip
    found["__meta_kubernetes_pod_container_port_number"] = ports
    # Not Failed: an evicted pod would be down for ever.
    found["__meta_kubernetes_pod_phase"] = ["Running"]
    kept = [rule for rule in job["relabel_configs"] if rule.get("action") == "keep"]
    assert len(kept) == 3 and all(rule["regex"] in found[rule["source_labels"][0]] for rule in kept)
    # By these labels the alerts tell servers apart.
    copied = {rule["source_labels"][0]: rule["target_label"] for rule in job["relabel_configs"] if rule not in kept}
    assert copied == {"__meta_kubernetes_namespace": "namespace", "__meta_kubernetes_pod_name": "pod"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_dockerfile(variant):
    steps = instructions(f"Dockerfile.{variant}")
    last_stage = steps[max(i for i, (name, _) in enumerate(steps) if name == "FROM") :]
    assert last_stage[0] == ("FROM", SETTINGS.variants[variant].image)
    assert SETTINGS.variants[variant].image == "tensorflow/serving:2.16.1" + ("-gpu" if variant == "gpu" else "")
    named = dict(last_stage)
    assert json.loads(named["ENTRYPOINT"]) == ["/usr/bin/tini", "--", "/usr/bin/tensorflow_model_server"]
    command = json.loads(named["CMD"])
    assert command == files.flags(SETTINGS, variant)
    uid = named["USER"].split(":")[0]
    assert uid.isdigit() and int(uid) > 0
    environment = dict(pair.split("=") for name, text in last_stage if name == "ENV" for pair in text.split())
    if variant == "gpu":
        assert environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
        # What the driver compiles is kept: the root file system is read-only, and the user has no home.
        (writable,) = load("docker-compose.yml")["services"]["server-gpu"]["tmpfs"]
        assert environment["CUDA_CACHE_PATH"].startswith(f"{writable}/")
    copied = set()
    for *chosen, source, target in (text.split() for name, text in last_stage if name == "COPY"):
        # The builder may give the mode to the folders that it makes: others than root must be able to enter them.
        modes = [int(text.removeprefix("--chmod="), 8) for text in chosen if text.startswith("--chmod=")]
        assert all(mode & 0o005 == 0o005 for mode in modes), chosen
        assert source == "/usr/bin/tini-static" or (FOLDER / source).is_file()
        copied.add(target)
    # Every file that the flags name is in the image, mounted, or a secret.
    compose = load("docker-compose.yml")
    service = compose["services"][f"server-{variant}"]
    mounted = service["volumes"][0].split(":")[-2]
    for name, value in (flag[2:].split("=", 1) for flag in command):
        if name.endswith("_file"):
            secret = value.removeprefix("/run/secrets/") in service.get("secrets", [])
            assert value in copied or value.startswith(mounted + "/") or secret, name
    assert f"--port={named['EXPOSE'].split()[0]}" in command


@pytest.mark.parametrize("variant", VARIANTS)
def test_flags_are_those_of_the_real_server(variant):
    real = {flag.name for flag in _FLAGS if not flag.own} | set(IGNORED_FLAGS)
    assert {flag[2:].split("=")[0] for flag in files.flags(SETTINGS, variant)} <= real


@pytest.mark.parametrize("tls", ["mutual", "server", "none"])
def test_compose(tls):
    settings = Settings.model_validate(changed(tls=tls))
    compose = yaml.safe_load(files.render(settings)["docker-compose.yml"])
    assert set(compose) <= {"name", "services", "volumes", "secrets"}
    for variant in VARIANTS:
        service = compose["services"][f"server-{variant}"]
        assert service["profiles"] == [variant] and service["build"]["dockerfile"] == f"Dockerfile.{variant}"
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] == files.USER
        # REST and metrics have no access control; gRPC only with TLS.
        assert service["ports"] == (["127.0.0.1:8500:8500"] if tls == "none" else ["8500:8500"])
        assert ("deploy" in service) == (variant == "gpu")
        encrypted = "--ssl_config_file=/run/secrets/ssl.config" in files.flags(settings, variant)
        assert encrypted == ("ssl.config" in service.get("secrets", [])) == (tls != "none")
    assert set(compose.get("secrets", {})) == (set() if tls == "none" else {"ssl.config"})
    prometheus = compose["services"]["prometheus"]
    assert all(port.startswith("127.0.0.1:") for port in prometheus["ports"])
    mounts = dict(volume.split(":")[:2] for volume in prometheus["volumes"])
    for source, target in mounts.items():
        assert source in compose["volumes"] or (FOLDER / source).is_file()
        assert source in compose["volumes"] or target == f"/etc/prometheus/{source[2:]}"
    assert load("prometheus.yml")["rule_files"] == [mounts["./alerts.yml"]]
    # Its user is none of ours: what a clone with another umask needs is in the guide.
    (readable,) = re.findall(r"`chmod -R o\+rX .*?serving/production/(\S+)`", (FOLDER.parent / "README.md").read_text())
    assert all(Path(source).match(readable) for source in mounts if source not in compose["volumes"])


# -- for real, as far as the embedded server goes --------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_server_runs_with_the_production_command_line(variant, tmp_path, toy_model, image, capsys, monkeypatch):
    models = tmp_path / "serving_model"
    for number in (1, 2):
        toy.push(toy_model, models / "htr", number)
    authority = Authority("ours")
    pems = {"ca.pem": authority.pem()}
    for name in ("server", "client"):
        pems[f"{name}.key"], pems[f"{name}.pem"] = authority.issue("localhost")
    for name, data in pems.items():
        (tmp_path / name).write_bytes(data)
    pem = [str(tmp_path / name) for name in ("server.key", "server.pem")]
    assert main(["ssl-config", *pem]) == 2
    assert "mutual TLS: give --ca" in capsys.readouterr().err
    assert main(["ssl-config", *pem, "--ca", str(tmp_path / "ca.pem")]) == 0
    (tmp_path / "ssl.config").write_text(capsys.readouterr().out)
    message = protos.read_text_proto(tmp_path / "ssl.config", protos.SSLConfig())
    assert message.client_verify and message.custom_ca.encode() == pems["ca.pem"]

    promote = ["promote", "1", "--label", "stable", "--workspace", str(tmp_path)]
    assert cli.main(promote) == 0
    for name, target in (("monitoring.config", "monitoring.config"), (f"batching.{variant}.config", "batching.config")):
        if (FOLDER / name).exists():
            shutil.copy(FOLDER / name, tmp_path / target)
    places = {"/models/": f"{models}/", "/etc/htr/": f"{tmp_path}/", "/run/secrets/": f"{tmp_path}/"}
    flags = files.flags(SETTINGS, variant)
    for there, here in places.items():
        flags = [flag.replace(f"={there}", f"={here}") for flag in flags]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = options_from(parser.parse_args(flags))
    assert options.enable_batching == (variant == "gpu")
    assert ("grpc.max_connection_age_ms", 60_000) in options.channel_options()
    options.port, options.rest_api_port, options.tensorflow_session_parallelism = 0, -1, 1

    import grpc

    with EmbeddedServer(options) as running:
        address = f"localhost:{running.port}"
        tls = ["--tls-ca", str(tmp_path / "ca.pem")]
        for part, name in (("certificate", "client.pem"), ("key", "client.key")):
            tls += [f"--tls-{part}", str(tmp_path / name)]
        credentials = grpc.ssl_channel_credentials(pems["ca.pem"], pems["client.key"], pems["client.pem"])
        with Client(address, credentials) as client:
            request = toy.predict_request({"image_bytes": [image] * 32}, "transcribe", label="stable")
            assert client.predict(request).model_spec.version.value == 1
            promote[1] = "2"
            assert cli.main([*promote, "--server", address]) == cli.ERROR  # without a certificate
            # The certificate is for localhost, not for its address.
            by_number = [*promote, "--server", f"127.0.0.1:{running.port}", *tls]
            assert cli.main(by_number) == cli.ERROR
            assert cli.main([*by_number, "--tls-server-name", "localhost"]) == 0
            assert client.predict(request).model_spec.version.value == 2
            # Where a name stands for several servers, it is still the name in their certificates. What is suggested
            # reaches them in the same way.
            promote[1] = "1"
            assert cli.main(promote) == 0
            places = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port)) for port in (running.port, 1)]
            with monkeypatch.context() as patched:
                patched.setattr(socket, "getaddrinfo", lambda *_, **__: places)
                assert cli.main(["versions", *promote[4:], "--server", address, *tls]) == cli.ERROR
            said = capsys.readouterr()
            assert "2  AVAILABLE  stable" in said.out and "Nobody answers at 127.0.0.1:1." in said.err
            (suggested,) = re.findall(r"bring it up to date: htr (promote .*)", said.err)
            assert cli.main(suggested.split()) == 0
            assert client.predict(request).model_spec.version.value == 1
            assert cli.main(["rollback", *promote[2:], "--server", f"{address},localhost:1", *tls]) == cli.ERROR
            (suggested,) = re.findall(r"repeat: htr promote 2 (.*)", capsys.readouterr().err)
            assert suggested.split() == [*promote[2:], "--server", "localhost:1", *tls]
            assert client.health("PredictionService") == 1
        health = files.health_command("htr", running.rest_port).replace("$$", "$")
        assert subprocess.run(["bash", "-c", health], timeout=10).returncode == 0
        other = files.health_command("other", running.rest_port).replace("$$", "$")
        assert subprocess.run(["bash", "-c", other], timeout=10).returncode != 0
        metrics = f"http://127.0.0.1:{running.rest_port}{PROMETHEUS_PATH}"
        with urllib.request.urlopen(metrics, timeout=10) as response:
            page = response.read().decode()
        for kind, count in (('API="Predict",entrypoint="GRPC"', 3), ('API="",entrypoint="REST"', 1)):
            assert f':tensorflow:serving:request_latency_count{{model_name="htr",{kind}}} {count}\n' in page
