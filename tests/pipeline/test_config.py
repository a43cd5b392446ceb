"""The configuration: defaults, files, overrides, and errors that name the setting."""

import re

import pytest

from components.common.settings import ConfigError
from htr_client.model_facts import LINE_FINDER
from pipeline.config import PATHS, SETTINGS, Config, as_yaml, load


def test_defaults_are_valid():
    assert load() == Config()
    assert (Config().transform.height, Config().transform.width) == (32, 128)


def test_presets_set_the_size_unless_told_otherwise():
    line = load(overrides=["transform.preset=line"]).transform
    assert (line.height, line.width) == (64, 1600)
    assert load(overrides=["transform.preset=line", "transform.height=48"]).transform.height == 48


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("gate: {max_cer: 0.3}\ntrain: {epochs: 7}\n")
    config = load(str(path), ["gate.max_cer=0.05"], workspace="elsewhere")
    assert (config.gate.max_cer, config.train.epochs, config.workspace) == (0.05, 7, "elsewhere")


@pytest.mark.parametrize(
    ("text", "place"),
    [("train: {epochs: 3}\ngate: {}\ntrain: {seed: 2}\n", "line 3"), ("train: {seed: 1, seed: 2}", "column 18")],
)
def test_a_name_that_stands_twice_in_the_file_is_refused(text, place, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"run.yaml .*is there twice(?s:.*){place}"):
        load(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gate.max_cr=0.1", "gate.max_cr: no such setting"),
        ("train.epochs=many", "train.epochs: .*integer"),
        ("train.epochs=0", "train.epochs: .*greater than or equal to 1"),
        ("gate", "write it as section.name=value"),
        ("gate=1", "gate: "),
        ("train.epochs.more=1", "train.epochs"),
        ("transform.preset=page", "transform.preset"),
        ("transform.preset=[line]", "transform.preset: .*'word' or 'line'"),
        ("gate.max_cer=[", "not valid YAML"),
        ("data.paths=names", r"data.paths: .*'names'; a list is written \[a, b\]\)"),
        ("kubeflow.volumes=x", "kubeflow.volumes: .*'x'; write it as {name: value}"),
        ("train.mixed_precision=ja", "train.mixed_precision: .*'ja'; write true or false"),
        ("name=a b", "name: .*'a b'; small letters, digits, _ and -"),
        ("data.encoding=klingon", "data.encoding: Python has no text encoding 'klingon'"),
        ("data.encoding=base64", "no text encoding 'base64'"),
        ("gate.slice_max_cer={text_length: 0.3}", "text_length is no slice; there are writer, length_band, source"),
        ("gate.slice_max_cer={writers=7: 0.3}", "writers=7 is no slice"),
    ],
)
def test_errors_name_the_setting(override, message):
    with pytest.raises(ConfigError, match=message):
        load(overrides=["train.epochs=3", override] if "more" in override else [override])


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("train.epocs=3", "train.epochs"),
        ("trian.epochs=3", "train"),
        ("epochs=3", "train.epochs or tune.epochs"),
        ("model_dir=models", "push.model_dir"),
        ("train.max_cer=0.1", "gate.max_cer"),
        ("Workspace=w", "workspace"),
        ("transform.preset=lien", "line"),
        ("beam.runner=Spark", "spark"),
        ("train.augmentations=[afine]", "affine"),
        ("gate.slice_max_cer={writers=7: 0.2}", "writer"),
        ("drift.thresholds={sharpnes: 0.3}", "sharpness"),
    ],
)
def test_typos_are_told_what_was_meant(override, meant):
    with pytest.raises(ConfigError, match=rf"did you mean {meant}\b"):
        load(overrides=[override])


@pytest.mark.parametrize("section", ["gate", "bulk"])
def test_a_decoder_is_written_as_in_settings_or_as_in_options(section):
    for written in ("best_path", "best-path"):
        assert getattr(load(overrides=[f"{section}.decoder={written}"]), section).decoder == "best_path"
    with pytest.raises(ConfigError, match=rf"{section}\.decoder: .*did you mean best_path\?"):
        load(overrides=[f"{section}.decoder=bestpath"])


def test_nothing_is_suggested_for_what_resembles_nothing():
    with pytest.raises(ConfigError, match=r"^zzz: no such setting \(`htr config` lists them all\)$"):
        load(overrides=["zzz=1"])


@pytest.mark.parametrize("value", ["2024-13-01", "2024-02-30", "!!int abc", "!!float x", "[" * 3000, "\x07"])
def test_what_yaml_cannot_read_is_refused_with_its_place(value, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"airflow: {{start_date: {value}}}")
    with pytest.raises(ConfigError, match=r"run\.yaml is not valid YAML: \S"):
        load(str(path))
    with pytest.raises(ConfigError, match=r"^--set airflow\.start_date=.*: the value is not valid YAML: \S"):
        load(overrides=[f"airflow.start_date={value}"])


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load(str(tmp_path / "none.yaml"))
    path = tmp_path / "list.yaml"
    path.write_text("- a\n")
    with pytest.raises(ConfigError, match="section"):
        load(str(path))


@pytest.mark.parametrize("content", ["data:\n", "data:\n  # encoding: latin-1\n"])
def test_an_empty_section_has_its_defaults(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    assert load(str(path)) == Config()
    assert load(str(path), data={"paths": ["names"]}).data.paths == ["names"]
    assert load(str(path), ["data.encoding=latin-1"]).data.encoding == "latin-1"


@pytest.mark.parametrize("value", ["[names]", "names", "3"])
def test_what_is_no_section_is_named(tmp_path, value):
    path = tmp_path / "run.yaml"
    path.write_text(f"data: {value}\n")
    for overrides, settings in (([], {}), (["data.encoding=latin-1"], {}), ([], {"data": {"paths": ["names"]}})):
        with pytest.raises(ConfigError, match="data: must hold `name: value` pairs, not "):
            load(str(path), overrides, **settings)


def test_json_round_trip():
    config = load(overrides=["data.alphabet=abc", "gate.slice_max_cer={writer: 0.2}"])
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_printed_configuration_is_read_back_and_explains_every_setting(tmp_path):
    config = load(overrides=["gate.max_cer=0.07", "data.alphabet='ab é'", "transform.preset=line"])
    (tmp_path / "run.yaml").write_text(as_yaml(config), encoding="utf-8")
    assert load(str(tmp_path / "run.yaml")) == config
    settings = [line for line in as_yaml(config).splitlines() if line.startswith("  ")]
    assert not [line for line in settings if "  # " not in line]


def test_the_printed_configuration_names_the_permitted_values():
    lines = {line.split(":")[0].strip(): line for line in as_yaml(load()).splitlines() if "# " in line}
    for setting, values in (
        ("task", "one of: text, pages"), ("preset", "one of: word, line"),
        ("augmentations", "each one of: affine, elastic, neighbours, stroke, contrast, noise, cutout, sharpness"),
        ("freeze", "each one of: convolutions, recurrent"), ("runner", "one of: local, dask, flink, spark, dataflow"),
        ("decoder", "one of: default, best_path"),
    ):  # fmt: skip
        assert lines[setting].endswith(f"; {values}")
    assert "one of" not in lines["epochs"] + lines["schedule"]


def test_descriptions_of_settings_stand_alone():
    """None begins as the rest of a sentence, such as `of AdamW` or `and these two`."""
    for name, section in Config.model_fields.items():
        fields = type(section.default).model_fields if name in SETTINGS else {"": section}
        for setting, field in fields.items():
            first = (field.description or "").split()[0].lower()
            assert first not in ("of", "and", "for", "with", "by", "on", "before", "which", "whose"), (
                f"{name}.{setting}"
            )


def test_height_and_width_follow_a_preset_that_is_changed_in_a_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(as_yaml(load()), encoding="utf-8")
    lines = load(str(path), ["transform.preset=line"]).transform
    assert (lines.height, lines.width) == (64, 1600)
    path.write_text(as_yaml(load(None, ["transform.height=48"])), encoding="utf-8")
    assert load(str(path), ["transform.preset=line"]).transform.height == 48


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.filters=[8, 8, 8, 8, 8, 8, 8]", r"^model\.filters: 7 stages.* transform\.height"),
        ("model.filters=[0, 8, 8]", r"model\.filters\.0: .*greater than or equal to 1"),
        ("transform.width=150", r"transform\.width: .*multiple of 4"),
        ("train.seed=0", r"train\.seed"),
        ("train.seed=2147483647", r"train\.seed"),
        ("data.image_column=2", r"data\.image_column: .*in quotation marks it is text"),
        ("gate.slice_max_cer={writer: -1}", r"gate\.slice_max_cer\.writer"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(setting, message):
    with pytest.raises(ConfigError, match=message):
        load(None, [setting])


def numbers(kind):
    """Settings whose value is a number of these kinds, or holds some; each with a way to write such a value."""
    schema = Config.model_json_schema()
    for section in SETTINGS:
        settings = schema["$defs"][type(Config.model_fields[section].default).__name__]["properties"]
        for name, properties in settings.items():
            types = set(re.findall(r"'type': '(\w+)'", str(properties)))
            if types & kind and "boolean" not in types:
                several = "[%s" + ", 64" * (properties.get("minItems", 1) - 1) + "]"
                written = {"array": several, "object": "{writer: %s}"}
                yield f"{section}.{name}", written.get(properties.get("type"), "%s")


@pytest.mark.parametrize("value", ["yes", "false", "True"])
def test_yes_and_no_are_not_taken_for_numbers(value):
    settings = dict(numbers({"integer", "number"}))
    assert {"push.keep_versions", "train.epochs", "model.filters", "line_training.window"} <= settings.keys()
    for setting, written in settings.items():
        with pytest.raises(ConfigError, match=setting):
            load(overrides=[f"{setting}={written % value}"])
    with pytest.raises(ConfigError, match=r"push\.keep_versions: Input should be a number; .* \(got True\)"):
        load(overrides=["push.keep_versions=yes"])


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_no_number_is_infinite(value):
    settings = dict(numbers({"number"}))
    assert {"airflow.timeout", "kubeflow.memory", "train.learning_rate", "gate.slice_max_cer"} <= settings.keys()
    for setting, written in settings.items():
        with pytest.raises(ConfigError, match=setting):
            load(overrides=[f"{setting}={written % value}"])


@pytest.mark.parametrize(
    "schedule",
    [
        "every day",
        "@dayly",
        "daily",
        "",
        "0 3 * *",
        "every day at 3 sharp",
        "5",
        "61 * * * *",
        "0 25 * * *",
        "0 0 0 * *",
        "1/0 * * * *",
        "1- * * * *",
        "mon mon mon mon mon",
    ],
)
def test_a_schedule_that_airflow_does_not_know_is_refused(schedule):
    with pytest.raises(ConfigError, match=r"airflow\.schedule: It is neither a cron expression .* nor one of @once"):
        load(overrides=[f"airflow.schedule='{schedule}'"])


@pytest.mark.parametrize("schedule", ["@daily", "@once", "0 3 * * *", "*/15 8-18 1,15 JAN-jun mon#1", "0 0 L * 1-5 30"])
def test_a_schedule_is_a_preset_or_a_cron_expression(schedule):
    assert load(overrides=[f"airflow.schedule='{schedule}'"]).airflow.schedule == schedule
    assert load(overrides=["airflow.schedule=null"]).airflow.schedule is None


@pytest.mark.parametrize("runner", ["airflow", "kubeflow"])
def test_times_and_retries_of_runners_stay_within_what_they_can_count(runner):
    for setting in ["retries", "retry_delay", *(["timeout"] if runner == "airflow" else [])]:
        with pytest.raises(ConfigError, match=rf"{runner}.{setting}: .*less than or equal to"):
            load(overrides=[f"{runner}.{setting}=1000000000"])


def test_line_finders_are_pushed_under_the_name_that_clients_ask_for(tmp_path):
    name, model_dir = Config(task="pages", workspace=str(tmp_path)).servable
    assert name == LINE_FINDER and model_dir == str(tmp_path / "serving_model" / LINE_FINDER)


def test_settings_that_are_paths_are_found_by_their_type():
    assert {f"{section}.{name}" for section, name in PATHS} == {
        "data.paths", "train.warm_start", "language.texts", "push.model_dir", "bulk.folder", "bulk.line_finder",
        "pages.model_dir", "line_training.warm_start", "line_gate.recogniser", "beam.setup_file",
        "beam.extra_packages",
    }  # fmt: skip


def test_only_settings_that_are_set_to_a_path_are_told():
    config = load(overrides=["data.paths=[a, b]", "push.model_dir=models", "line_gate.recogniser=in_service"])
    assert list(config.paths()) == [("data", "paths", ["a", "b"]), ("push", "model_dir", "models")]
    assert list(load(overrides=["line_gate.recogniser=models"]).paths()) == [("line_gate", "recogniser", "models")]
