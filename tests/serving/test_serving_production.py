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

import pytest
import serving_toy as toy
import yaml
from serving_authority import Authority
from serving_client import Client

from htr_client import ClientMetrics
from htr_client.client import HtrClient
from pipeline import cli
from serving import protos
from serving.batching import BatchingOptions
from serving.configuration import files
from serving.configuration.__main__ import main
from serving.configuration.settings import FOLDER, Settings
from serving.metrics import Metrics
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
        ({"variants__gpu__grpc_max_threads": 287}, "at least 288"),
        ({"variants__gpu__batching__max_batch_size": 64}, "must be max_batch_size"),
        ({"variants__gpu__batching__allowed_batch_sizes": [1, 8, 4, 32]}, "must increase"),
        ({"variants__gpu__batching__allowed_batch_sizes": []}, "at least 1 item"),
        ({"variants__gpu__batching__max_enqueued_batches": 2}, "threads without work"),
        ({"variants__gpu__batching__batch_timeout_micros": 2_000_000}, "less than or equal"),
        ({"variants__gpu__batching__num_batch_threads": True}, "num_batch_threads"),  # as YAML reads `yes`
        ({"variants__gpu__image": "tensorflow/serving"}, "image"),
        ({"tls": "perhaps"}, "tls"),
        ({"grpc_port": 1}, "Extra inputs"),
    ],
)
def test_contradictions_are_refused(tmp_path, capsys, change, message):
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(changed(**change)))
    assert main(["render", "--folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


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
    assert f"--port={port}" in load("docker-compose.yml")["services"][host]["command"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    for variant in VARIANTS:
        assert f"--rest_api_port={port}" in files.flags(SETTINGS, variant)
        assert host in load("docker-compose.yml")["services"][f"server-{variant}"]["networks"]["default"]["aliases"]
    assert f'job="{job["job_name"]}"' in (FOLDER / "alerts.yml").read_text()


def test_a_cluster_scrapes_the_pods_of_the_manifests_as_the_job_of_the_alerts():
    (job,) = load("prometheus.kubernetes.yml")["scrape_configs"]
    assert f'up{{job="{job["job_name"]}"}}' in rules()["HtrServerDown"]["expr"]
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
    assert ("ENV", "TF_FORCE_GPU_ALLOW_GROWTH=true") in last_stage or variant == "cpu"
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
    for name, value in (flag[2:].split("=") for flag in command):
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


# -- alert rules -----------------------------------------------------------------------------------------------


UP = 'up{job="htr"}'


def rules() -> dict[str, dict]:
    (group,) = load("alerts.yml")["groups"]
    return {rule["alert"]: rule for rule in group["rules"] if "alert" in rule}


def test_alerts_name_metrics_that_exist():
    existing = set(re.findall(r"# TYPE (\S+)", Metrics().page() + ClientMetrics().page()))
    for name, rule in rules().items():
        used = re.findall(r":tensorflow:[\w:]+|htr_client\w+", rule["expr"])
        assert {re.sub(r"_(bucket|count)$", "", metric) for metric in used} <= existing | {
            re.sub(r"_count$", "", metric) for metric in existing
        }, name
        assert rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"]


@pytest.fixture
def promtool():
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: package prometheus)")
    return found


def test_promtool_accepts_rules_and_configuration(promtool, tmp_path):
    cluster = load("prometheus.kubernetes.yml")
    # Debian's Prometheus is built without Kubernetes: the rest of the job is checked.
    assert cluster["scrape_configs"][0].pop("kubernetes_sd_configs") == [{"role": "pod"}]
    (tmp_path / "cluster.yml").write_text(yaml.safe_dump(cluster))
    configurations = (["config", "--syntax-only", name] for name in ("prometheus.yml", str(tmp_path / "cluster.yml")))
    for command in (["rules", "alerts.yml"], *configurations):
        done = subprocess.run([promtool, "check", *command], cwd=FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout


def test_alerts_fire_when_they_should_and_only_then(promtool, tmp_path):
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency_bucket"
    loads = ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/htr/3",status="%s"}'
    warm_ups = ':tensorflow:serving:model_warmup_latency_count{model_path="/models/htr/3",status="%s"}'
    waiting = ':tensorflow:serving:batching_session:queuing_latency_bucket{thread_pool_name="p",le="%s"}'

    def series(**values: str) -> list[dict]:
        lines = {UP: "1x30", f'{count}{{model_name="htr",status="OK"}}': "0+6000x30"}
        lines |= {f'{count}{{model_name="htr",status="{code}"}}': text for code, text in values.items()}
        return [{"series": name, "values": text} for name, text in lines.items()]

    def calls(code: str, model: str = "htr", answered: str = "0+6000x30") -> list[dict]:
        name = f'htr_client_calls_total{{model="{model}",signature="transcribe",code="%s"}}'
        return [{"series": name % "OK", "values": answered}, {"series": name % code, "values": "0+300x30"}]

    def lines(code: str, answered: str = "0x30") -> list[dict]:
        name = f'{count}{{model_name="htr-lines",status="%s"}}'
        return [{"series": name % "OK", "values": answered}, {"series": name % code, "values": "0+300x30"}]

    slow = [
        {"series": f'{latency}{{model_name="htr",le="{bound}"}}', "values": f"0+{step}x30"}
        for bound, step in (("100000", 50), ("1000000", 100), ("+Inf", 100))
    ]
    queueing = [
        {"series": waiting % bound, "values": f"0+{step}x30"}
        for bound, step in (("100000", 50), ("1000000", 100), ("+Inf", 100))
    ]
    prompt = [{"series": waiting % bound, "values": "0+100x30"} for bound in ("1000", "1000000", "+Inf")]
    cases = [
        (series(), set()),
        (series(INVALID_ARGUMENT="0+6000x30", CANCELLED="0+6000x30"), set()),
        (series(INTERNAL="0+30x30"), set()),  # half a per cent
        (series(INTERNAL="0+300x30"), {"HtrRequestsFail"}),
        (series(NOT_FOUND="0+300x30"), {"HtrRequestsFail"}),
        (series(DEADLINE_EXCEEDED="0+300x30"), {"HtrRequestsFail"}),
        (series(UNAVAILABLE="0+300x30"), {"HtrOverloaded"}),
        (series() + calls("RESOURCE_EXHAUSTED"), {"HtrOverloaded"}),  # what finds no thread, no server counts
        # The servers are well and nobody reaches them: an expired certificate, a name, a network policy.
        (series() + calls("UNAVAILABLE", answered="0x30"), {"HtrCallsFail"}),
        (series() + calls("DEADLINE_EXCEEDED"), {"HtrCallsFail"}),
        (series() + calls("NOT_FOUND"), {"HtrCallsFail"}),
        (series() + calls("INVALID_ARGUMENT") + calls("CANCELLED") + calls(""), set()),
        # The line finder, which some servers do not have: clients that look for pages ask for it all the same.
        (series() + lines("INTERNAL"), {"HtrRequestsFail"}),
        (series() + lines("NOT_FOUND", "0+300x12 3600x18"), {"HtrRequestsFail"}),
        (series() + lines("UNAVAILABLE", "0+6000x30"), {"HtrOverloaded"}),
        (series() + lines("NOT_FOUND") + calls("NOT_FOUND", "htr-lines", "0x30"), set()),
        (series() + calls("NOT_FOUND", "htr-lines", "0+300x12 3600x18"), {"HtrCallsFail"}),
        (series() + calls("UNAVAILABLE", "htr-lines"), {"HtrCallsFail"}),
        ([*series()[1:], {"series": UP, "values": "0x30"}], {"HtrServerDown", "HtrReplicaDown"}),
        ([*series(), {"series": 'up{job="htr",pod="new"}', "values": "_x10 0x8 1x12"}], set()),  # loads its models
        ([*series(), {"series": 'up{job="htr",pod="new"}', "values": "_x10 0x20"}], {"HtrReplicaDown"}),
        (series()[1:], {"HtrServerDown"}),  # the job has another name
        (
            [*series()[1:], {"series": 'up{job="htr",pod="a"}', "values": "1x10 _x20"}],
            {"HtrServerDown"},
        ),  # no pod is left
        (series() + slow, {"HtrSlow"}),
        (series() + queueing, {"HtrQueueing"}),
        (series() + prompt, set()),
        ([*series(), {"series": loads % "success", "values": "_x18 1x12"}], set()),
        ([*series(), {"series": loads % "fail", "values": "_x18 1x12"}], {"HtrLoadFails"}),  # the very first
        ([*series(), {"series": loads % "fail", "values": "1x18 2x12"}], {"HtrLoadFails"}),
        ([*series(), {"series": loads % "fail", "values": "1x30"}], set()),  # long ago
        ([*series(), {"series": warm_ups % "OK", "values": "_x18 1x12"}], set()),
        ([*series(), {"series": warm_ups % "INVALID_ARGUMENT", "values": "_x18 1x12"}], {"HtrWarmUpFails"}),
    ]
    elsewhere = {"HtrMemoryGrows"}
    assert set().union(*(firing for _, firing in cases)) == set(rules()) - elsewhere
    promtool_agrees(promtool, tmp_path, cases, "1m", "25m")


def test_versions_past_the_greatest_number_of_series_are_no_failures(promtool, tmp_path):
    """What is counted as `other` keeps its status: a good load is none that fails."""
    metrics = Metrics()
    for number in range(600):
        metrics.load_attempts.add(1, f"/models/htr/{number}", "success")
        metrics.warmup_latency.add(1000, f"/models/htr/{number}", "OK")
    page = metrics.page()
    lines = [line.rsplit(" ", 1)[0] for line in page.splitlines() if 'model_path="other"' in line]
    assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="other",status="success"}' in lines
    good = [{"series": line, "values": "_x18 1x12"} for line in lines] + [{"series": UP, "values": "1x30"}]
    metrics.load_attempts.add(1, "/models/htr/600", "fail")
    (line,) = [line.rsplit(" ", 1)[0] for line in metrics.page().splitlines() if 'status="fail"' in line]
    bad = {"series": line, "values": "_x18 1x12"}
    promtool_agrees(promtool, tmp_path, [(good, set()), ([*good, bad], {"HtrLoadFails"})], "1m", "25m")


def test_memory_that_grows_with_pushes_is_told(promtool, tmp_path):
    """Nine days with one value an hour; memory in MB."""
    hours, load = 216, ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/htr/%d",status="success"}'
    embedded, compose, kubernetes = (
        'process_resident_memory_bytes{job="htr",instance="server:8501"}',
        'container_memory_rss{job="containers",container_label_com_docker_compose_service="server-gpu"}',
        'container_memory_rss{container="server",pod="htr-serving-7d9f-x2x"}',
    )

    def series(of, every: int = 24, server: str = embedded) -> list[dict]:
        values = " ".join("_" if of(hour) is None else str(int(of(hour) * 1e6)) for hour in range(hours))
        memory = {"series": server, "values": values}
        pushes = enumerate(range(0, hours, every))
        loads = [{"series": load % n, "values": f"{f'_x{at} ' if at else ''}1x{hours - at}"} for n, at in pushes]
        return [memory, *loads, {"series": UP, "values": f"1x{hours}"}]

    def nightly(hour: int) -> int:
        return 840 + 45 * (hour // 24)  # 5 % a night: a third in a week

    cases = [
        (series(lambda hour: 840 + hour), set()),  # a fifth in a week
        (series(lambda hour: 840 + 800 * (hour >= hours - 3)), set()),  # two versions while a push is under way
        (series(nightly), {"HtrMemoryGrows"}),
        (series(nightly, server=compose), {"HtrMemoryGrows"}),
        (series(nightly, server=kubernetes), {"HtrMemoryGrows"}),
        (series(nightly, every=hours), set()),  # without pushes
        # A server of two days, with a push every other hour.
        (series(lambda hour: 840 + 25 * (hour - 168) if hour >= 168 else None, every=2), {"HtrMemoryGrows"}),
        (series(lambda hour: 1800 if hour < 190 else 840), set()),  # a restart
    ]
    promtool_agrees(promtool, tmp_path, cases, "1h", f"{hours - 1}h")


def promtool_agrees(promtool, folder, cases, interval: str, moment: str) -> None:
    """Asserts which alerts fire at a moment; a case is a list of series and the names of alerts."""
    shutil.copy(FOLDER / "alerts.yml", folder)
    tests = [
        {
            "interval": interval,
            "input_series": lines,
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": moment,
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(firing)],
                }
            ],
        }
        for lines, firing in cases
    ]
    # Values an hour apart would be too far apart for Prometheus, which looks back five minutes.
    (folder / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["alerts.yml"], "evaluation_interval": interval, "tests": tests})
    )
    done = subprocess.run([promtool, "test", "rules", "tests.yml"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# -- for real, as far as the embedded server goes --------------------------------------------------------------


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
            # Where a name stands for several servers, it is still the name in their certificates.
            places = [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port)) for port in (running.port, 1)]
            with monkeypatch.context() as patched:
                patched.setattr(socket, "getaddrinfo", lambda *_, **__: places)
                assert cli.main(["versions", "--server", address, *tls]) == cli.ERROR
            said = capsys.readouterr()
            assert "2  AVAILABLE  stable" in said.out and "Nobody answers at 127.0.0.1:1." in said.err
            assert client.health("PredictionService") == 1
        health = files.health_command("htr", running.rest_port).replace("$$", "$")
        assert subprocess.run(["bash", "-c", health], timeout=10).returncode == 0
        other = files.health_command("other", running.rest_port).replace("$$", "$")
        assert subprocess.run(["bash", "-c", other], timeout=10).returncode != 0
        metrics = f"http://127.0.0.1:{running.rest_port}{PROMETHEUS_PATH}"
        with urllib.request.urlopen(metrics, timeout=10) as page:
            assert ':tensorflow:serving:request_count{model_name="htr",status="OK"} 2' in page.read().decode()
