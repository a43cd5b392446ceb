"""Which steps run again after an edit: those that use what was edited, and no others."""

import re
import shutil
from pathlib import Path

import pytest
from tfx.dsl.compiler.compiler import Compiler
from tfx.orchestration.local import runner_utils

from components.common import code_version
from pipeline.config import load
from pipeline.definition import create_pipeline
from pipeline.page_definition import create_page_pipeline
from pipeline.runners import steps

REPOSITORY = Path(__file__).parents[2]
# Every step of every runner: Kubeflow has some that the local runner and Airflow have not, and the other way round.
OVERRIDES = ["data.paths=[data]", "tune.trials=2", "bulk.folder=new"]


def names_of(definitions):
    """Texts that name the code of each step, by the step's name."""
    found = {}
    for definition in definitions:
        compiled = Compiler().compile(definition)
        deployment = runner_utils.extract_local_deployment_config(compiled)
        for node in compiled.nodes:
            name = node.pipeline_node.node_info.id
            executor = runner_utils.extract_executor_spec(deployment, name)
            if executor is not None:
                found[name] = steps.code_names(executor, node.pipeline_node)
    return found


@pytest.fixture(scope="module")
def names():
    config = load(None, OVERRIDES)
    return names_of(create_pipeline(config, "root", None, back, fails_unblessed=not back) for back in (True, False))


@pytest.fixture
def tree(tmp_path):
    """A copy of this repository's packages by name."""
    for name in ("components", "pipeline", "serving"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / "client" / "htr_client", tmp_path / "htr_client")
    return {name: tmp_path / name for name in code_version.PACKAGES}


def changed_steps(names, tree, path, old, new):
    """The steps whose digest changes with an edit of one file."""
    file = tree[path.split("/")[0]].parent / path
    before = {step: code_version.digest(texts, tree) for step, texts in names.items()}
    text = file.read_text(encoding="utf-8")
    edited = re.sub(old, new, text, count=1)
    assert edited != text, f"{path} holds no {old}"
    file.write_text(edited, encoding="utf-8")
    return {step for step, texts in names.items() if code_version.digest(texts, tree) != before[step]}


def test_a_digest_follows_imports_and_nothing_else(tree):
    trainer, report = "components.trainer.training.run_fn", "components.report.component.Executor"

    def digests():
        return [code_version.digest([name], tree) for name in (trainer, report)]

    before = digests()
    assert before == [code_version.digest([name]) for name in (trainer, report)]
    for path, expected in {
        "components/trainer/model.py": (True, True),
        "components/report/contents.py": (False, True),
        "components/report/report.html.j2": (False, True),
        "components/tools/review/review.py": (False, False),
        "htr_client/decoding.py": (True, True),
    }.items():
        with open(tree["components"].parent / path, "a") as file:
            file.write("\n")
        after = digests()
        assert tuple(old != new for old, new in zip(before, after, strict=True)) == expected, path
        before = after


@pytest.mark.parametrize("settings", ["runner_settings.py", "beam/settings.py"])
def test_a_help_text_of_a_runner_or_an_engine_runs_no_step_again(names, tree, settings):
    assert not changed_steps(names, tree, f"pipeline/{settings}", 'description="', 'description="Now: ')


def test_a_help_text_of_the_gate_runs_what_reads_the_gates_settings_again(names, tree):
    changed = changed_steps(names, tree, "components/evaluator/settings.py", 'description="', 'description="Now: ')
    # Evaluator and Gate get the bounds, or the verdict, as messages: the code that makes them is not theirs.
    assert {"Baseline", "RunReport"} <= changed
    assert not changed & {"HandwritingExampleGen", "StatisticsGen", "Transform", "Trainer", "Tuner", "Evaluator"}


def test_a_help_text_of_the_training_leaves_the_data_alone(names, tree):
    changed = changed_steps(names, tree, "components/trainer/settings.py", 'description="', 'description="Now: ')
    assert {"Trainer", "Tuner"} <= changed
    assert not changed & {"HandwritingExampleGen", "StatisticsGen", "Transform", "DataVersion"}


def test_a_help_text_of_the_language_model_leaves_the_training_alone(names, tree):
    changed = changed_steps(names, tree, "components/language/settings.py", 'description="', 'description="Now: ')
    assert {"LanguageModel", "RunReport"} <= changed
    assert not changed & {"HandwritingExampleGen", "Transform", "Trainer", "Tuner", "Evaluator", "BulkInferrer"}


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [("serving/server.py", r"\Z", "# changed\n"), ("serving/options.py", "TCP port for gRPC", "port for gRPC")],
    ids=["code", "help text of a flag"],
)
def test_what_the_serving_check_starts_by_name_counts_for_it_and_for_no_other_step(names, tree, path, old, new):
    assert changed_steps(names, tree, path, old, new) == {"ServingCheck"}


@pytest.mark.parametrize(
    "path", ["serving/rollout/moving.py", "serving/rollout/labels.py", "components/common/in_service.py"]
)
def test_moving_labels_trains_nothing_again(names, tree, path):
    changed = changed_steps(names, tree, path, r"\Z", "# changed\n")
    assert not changed & {"HandwritingExampleGen", "Transform", "Trainer", "Tuner", "Evaluator", "BulkInferrer"}


def test_how_versions_are_kept_matters_to_the_push_alone(names, tree):
    assert changed_steps(names, tree, "components/pusher/publishing.py", r"\Z", "# changed\n") == {"Pusher"}


@pytest.mark.parametrize(
    "path",
    ["trainer/augmentation.py", "trainer/export.py", "transform/preprocessing.py", "example_gen/dataset.py"],
)
def test_what_only_the_recogniser_needs_trains_no_line_finder_again(tree, path):
    names = names_of([create_page_pipeline(load(None, ["task=pages", "data.paths=[data]"]), "root")])
    assert {"PageExampleGen", "Trainer"} <= set(names)
    assert not changed_steps(names, tree, f"components/{path}", r"\Z", "# changed\n") & {"PageExampleGen", "Trainer"}
