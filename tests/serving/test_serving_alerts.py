"""The alert rules fire when they should, as Prometheus's own promtool sees it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from htr_client import ClientMetrics
from serving.configuration import files
from serving.configuration.settings import FOLDER, Settings
from serving.metrics import Metrics

pytestmark = pytest.mark.either_stack

UP = 'up{job="htr"}'


def rules() -> dict[str, dict]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
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
    cluster = yaml.safe_load((FOLDER / "prometheus.kubernetes.yml").read_text())
    # Debian's Prometheus is built without Kubernetes: the rest of the job is checked.
    assert cluster["scrape_configs"][0].pop("kubernetes_sd_configs") == [{"role": "pod"}]
    told = Settings.read().model_copy(update={"alertmanagers": ["alerts:9093"], "clients": ["web:8000", "[::1]:80"]})
    made = yaml.safe_load(files.render(told)["prometheus.yml"])
    assert made["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["alerts:9093"]}]}]
    assert made["scrape_configs"][-1]["static_configs"] == [{"targets": ["web:8000", "[::1]:80"]}]
    machine = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    for configuration in (machine, made):
        # The rules are looked for where they are in the container; promtool before 2.33, as in Ubuntu 22.04, cannot be
        # told to leave that out.
        assert configuration["rule_files"] == ["/etc/prometheus/alerts.yml"]
        configuration["rule_files"] = [str(FOLDER / "alerts.yml")]
    for name, configuration in (("machine.yml", machine), ("told.yml", made), ("cluster.yml", cluster)):
        (tmp_path / name).write_text(yaml.safe_dump(configuration))
        done = subprocess.run([promtool, "check", "config", tmp_path / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
        assert ("rules found" in done.stdout) == ("rule_files" in configuration), done.stdout


def within(namespace: str, series: list[dict]) -> list[dict]:
    """Series as those of servers in a namespace."""
    return [line | {"series": line["series"].replace("{", f'{{namespace="{namespace}",', 1)} for line in series]


def test_alerts_fire_when_they_should_and_only_then(promtool, tmp_path):
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
    answered = f'{latency}_count{{model_name="%s",API="Predict",entrypoint="GRPC"}}'
    loads = ':tensorflow:cc:saved_model:load_attempt_count{job="htr",model_path="/models/htr/3",status="%s"}'
    warm_ups = ':tensorflow:serving:model_warmup_latency_count{job="htr",model_path="/models/htr/3",status="%s"}'
    waiting = ':tensorflow:serving:batching_session:queuing_latency_bucket{thread_pool_name="p",le="%s"}'

    def series(**values: str) -> list[dict]:
        lines = {UP: "1x30", f'{count}{{model_name="htr",status="OK"}}': "0+6024x30", answered % "htr": "0+6000x30"}
        lines |= {f'{count}{{model_name="htr",status="{code}"}}': text for code, text in values.items()}
        return [{"series": name, "values": text} for name, text in lines.items()]

    def quiet(answers: int, **values: str) -> list[dict]:
        """Of a server whose probes, 24 a minute, are more than its predictions."""
        probes = {"series": f'{latency}_count{{model_name="htr",entrypoint="REST"}}', "values": "0+24x30"}
        lines = {f'{count}{{model_name="htr",status="OK"}}': f"0+{24 + answers}x30"}
        lines |= {answered % "htr": f"0+{answers}x30"} if answers else {}
        lines |= {f'{count}{{model_name="htr",status="{code}"}}': text for code, text in values.items()}
        return [{"series": UP, "values": "1x30"}, probes, *({"series": n, "values": v} for n, v in lines.items())]

    def calls(code: str, model: str = "htr", answered: str = "0+6000x30") -> list[dict]:
        name = f'htr_client_calls_total{{model="{model}",signature="transcribe",code="%s"}}'
        return [{"series": name % "OK", "values": answered}, {"series": name % code, "values": "0+300x30"}]

    def lines(code: str, good: str = "0x30") -> list[dict]:
        name = f'{count}{{model_name="htr-lines",status="%s"}}'
        names = {name % "OK": good, answered % "htr-lines": good, name % code: "0+300x30"}
        return [{"series": each, "values": values} for each, values in names.items()]

    slow = [
        {"series": f'{latency}_bucket{{model_name="htr",{of},le="{bound}"}}', "values": f"0+{step}x30"}
        for of, steps in (('API="Predict",entrypoint="GRPC"', (50, 100, 100)), ('entrypoint="REST"', (2400,) * 3))
        for bound, step in zip(("100000", "1000000", "+Inf"), steps, strict=True)
    ]
    queueing = [
        {"series": waiting % bound, "values": f"0+{step}x30"}
        for bound, step in (("100000", 50), ("1000000", 100), ("+Inf", 100))
    ]
    prompt = [
        {"series": name % bound, "values": "0+6000x30"}
        for name in (waiting, f'{latency}_bucket{{model_name="htr",API="Predict",le="%s"}}')
        for bound in ("1000", "1000000", "+Inf")
    ]
    cases = [
        (series(), set()),
        (series(INVALID_ARGUMENT="0+6000x30", CANCELLED="0+6000x30"), set()),
        (series(INTERNAL="0+30x30"), set()),  # half a per cent
        (series(INTERNAL="0+300x30"), {"HtrRequestsFail"}),
        (series(NOT_FOUND="0+300x30"), {"HtrRequestsFail"}),
        (series(DEADLINE_EXCEEDED="0+300x30"), {"HtrRequestsFail"}),
        (series(UNAVAILABLE="0+300x30"), {"HtrOverloaded"}),
        (quiet(9, INTERNAL="0+1x30"), {"HtrRequestsFail"}),
        (quiet(9, UNAVAILABLE="0+1x30"), {"HtrOverloaded"}),
        (quiet(0, INTERNAL="0+1x30"), {"HtrRequestsFail"}),  # no prediction has ever been answered
        (quiet(0), set()),
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
        # Staging, in another namespace, is well, and production is not.
        (
            [*within("staging", series()), *within("production", [{"series": UP, "values": "1x10 _x20"}])],
            {"HtrServerDown"},
        ),
        ([*within("production", series()), {"series": UP, "values": "1x20 _x10"}], set()),  # before it told namespaces
        (within("staging", series()) + within("production", quiet(9, INTERNAL="0+1x30")), {"HtrRequestsFail"}),
        (
            within("staging", series() + prompt) + within("production", [*quiet(9), *slow, *queueing]),
            {"HtrSlow", "HtrQueueing"},
        ),
        # Only one of them has a line finder, and misses it.
        (
            within("staging", series() + lines("NOT_FOUND"))
            + within("production", series() + lines("NOT_FOUND", "0+300x30")),
            {"HtrRequestsFail"},
        ),
        (series() + slow, {"HtrSlow"}),
        (series() + queueing, {"HtrQueueing"}),
        (series() + prompt, set()),
        (
            [*series(), *({"series": name, "values": "_x15 1x15"} for name in (loads % "success", warm_ups % "OK"))],
            set(),
        ),
        # TensorFlow Serving says nothing of a warm-up request that fails.
        ([*series(), {"series": loads % "success", "values": "_x15 1x15"}], {"HtrWarmUpFails"}),
        ([*series(), {"series": loads % "success", "values": "_x22 1x8"}], set()),  # still answers them
        (  # again, after a restart
            [
                *series(),
                {"series": loads % "success", "values": "_x12 1x18"},
                {"series": warm_ups % "OK", "values": "_x12 1x5 _x13"},
            ],
            set(),
        ),
        ([*series(), {"series": loads % "success", "values": "1x30"}], set()),  # long ago
        ([*series(), {"series": (loads % "success").replace("htr/", "other/"), "values": "_x15 1x15"}], set()),
        ([*series(), {"series": loads % "fail", "values": "_x18 1x12"}], {"HtrLoadFails"}),  # the very first
        ([*series(), {"series": loads % "fail", "values": "1x18 2x12"}], {"HtrLoadFails"}),
        ([*series(), {"series": loads % "fail", "values": "1x30"}], set()),  # long ago
        ([*series(), {"series": warm_ups % "OK", "values": "_x18 1x12"}], set()),
        ([*series(), {"series": warm_ups % "INVALID_ARGUMENT", "values": "_x18 1x12"}], {"HtrWarmUpFails"}),
        # Long ago too: Prometheus has only been away, or has not reached the server for a while.
        *(
            ([*series()[1:], {"series": UP, "values": f"1x3 {down}x16 1x9"}, *failed], set())
            for down in "_0"
            for failed in [[{"series": name, "values": "1x3 _x16 1x9"} for name in (loads % "fail", warm_ups % "X")]]
        ),
    ]
    elsewhere = {"HtrMemoryGrows"}
    assert set().union(*(firing for _, firing in cases)) == set(rules()) - elsewhere
    promtool_agrees(promtool, tmp_path, cases, "1m", "25m")


def test_further_models_are_watched_once_they_are_named(promtool, tmp_path):
    count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"

    def series(model: str, step: int = 100, **failed: str) -> list[dict]:
        lines = {f'{count}{{model_name="{model}",status="{code}"}}': text for code, text in failed.items()}
        lines |= {f'{latency}_count{{model_name="{model}",API="Predict"}}': f"0+{step}x30"}
        for bound, share in (("100000", 0.5), ("1000000", 1), ("+Inf", 1)):
            fast = f'{latency}_bucket{{model_name="{model}",API="Predict",le="{bound}"}}'
            lines[fast] = f"0+{int(step * (share if model == 'latin' else 1))}x30"
        return [{"series": name, "values": text} for name, text in lines.items()]

    well = [{"series": UP, "values": "1x30"}, *series("htr", 9000)]  # so many that the sum of both is fast
    loaded = ':tensorflow:cc:saved_model:load_attempt_count{job="htr",model_path="/models/latin/3",status="success"}'
    cold = {"series": loaded, "values": "_x15 1x15"}
    bad = [*well, *series("latin", INTERNAL="0+9x30"), cold]
    promtool_agrees(promtool, tmp_path, [(bad, set())], "1m", "25m")
    told = files.render(Settings.read().model_copy(update={"further_models": ["greek", "latin"]}))["alerts.yml"]
    firing = {"HtrRequestsFail", "HtrSlow", "HtrWarmUpFails"}
    promtool_agrees(promtool, tmp_path, [(bad, firing), (well, set())], "1m", "25m", told)


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
    bad = {"series": line.replace("{", '{job="htr",'), "values": "_x18 1x12"}
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

    def full(hour: int) -> int:
        return 840 if hour < 100 else 1200

    def pods(*loaded: tuple[str, str, str]) -> list[dict]:
        return [{"series": f'{name[:-1]},pod="{pod}"}}', "values": values} for name, pod, values in loaded]

    cases = [
        (series(lambda hour: 840 + hour), set()),  # a fifth in a week
        (series(lambda hour: 840 + 800 * (hour >= hours - 3)), set()),  # two versions while a push is under way
        (series(nightly), {"HtrMemoryGrows"}),
        (series(nightly, server=compose), {"HtrMemoryGrows"}),
        (series(nightly, server=kubernetes), {"HtrMemoryGrows"}),
        (series(nightly, every=hours), set()),  # without pushes
        (  # but in another namespace
            within("production", series(nightly, every=hours)) + within("staging", series(lambda hour: 840)),
            set(),
        ),
        # A server of two days, with a push every other hour.
        (series(lambda hour: 840 + 25 * (hour - 168) if hour >= 168 else None, every=2), {"HtrMemoryGrows"}),
        (series(lambda hour: 1800 if hour < 190 else 840), set()),  # a restart
        # The autoscaler adds a pod, or takes two while versions are pushed.
        (series(full, every=hours) + pods((load % 0, "b", f"_x{hours - 3} 1x3")), set()),
        (series(full, every=120) + pods((load % 0, "b", "1x180"), (load % 0, "c", "1x180")), {"HtrMemoryGrows"}),
    ]
    promtool_agrees(promtool, tmp_path, cases, "1h", f"{hours - 1}h")


def promtool_agrees(promtool, folder, cases, interval: str, moment: str, alerts: str | None = None) -> None:
    """Asserts which alerts fire at a moment; a case is a list of series and the names of alerts."""
    (folder / "alerts.yml").write_text(alerts or (FOLDER / "alerts.yml").read_text())
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
