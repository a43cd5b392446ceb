"""What is told of runs: their names, how they ended, and what has become of their versions."""

import json
import re
from pathlib import Path

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from components.common.run_metadata import NoSuchRun
from components.report import analysis, contents, prometheus, recogniser_runs, summary
from components.report.summary import RunSummary, Step
from pipeline import cli
from tests.components.report.report_material import material, table, without_plots, words


@pytest.fixture
def note(tmp_path):
    """Notes runs in the metadata of a workspace, each with a step."""
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(tmp_path / "metadata.db")
    connection.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    store = metadata_store.MetadataStore(connection)

    def put(run_id, state=mlmd.Execution.COMPLETE):
        names = {"pipeline": "htr", "pipeline_run": run_id, "node": "htr.Pusher"}
        contexts = [mlmd.Context(type_id=store.put_context_type(mlmd.ContextType(name=kind)), name=name)
                    for kind, name in names.items()]  # fmt: skip
        kind = store.put_execution_type(mlmd.ExecutionType(name="step"))
        step = mlmd.Execution(type_id=kind, last_known_state=state)
        store.put_execution(step, [], contexts, reuse_context_if_already_exist=True)

    return put


def test_a_run_is_found_by_the_name_that_is_shown_although_another_begins_with_it(note, tmp_path):
    ids = ("nightly", "nightly-2", "weekly/2026-05", "2026-05-04T10:12:31.5", "2026-05-04T10:12:32.5")
    for run_id in ids:
        note(run_id)
    for run in summary.read_all(str(tmp_path), "htr"):
        for name in (run.name, run.run_id):
            assert summary.read(str(tmp_path), "htr", name).run_id == run.run_id
    assert summary.read(str(tmp_path), "htr", "weekly-2026").run_id == "weekly/2026-05"
    with pytest.raises(NoSuchRun, match="Several runs are called 2026-05-04"):
        summary.read(str(tmp_path), "htr", "2026-05-04")


def test_a_workspace_with_runs_of_another_pipeline_says_so(note, tmp_path, capsys):
    note("2026-05-04")
    assert cli.main(["runs", "--task", "pages", "--workspace", str(tmp_path)]) == cli.ERROR
    assert "no run of the pipeline htr-lines, only of htr: choose with --task" in capsys.readouterr().err


def test_a_version_names_the_run_that_pushed_it(monkeypatch):
    """Not a later one that found the push cached."""
    newest_first = [RunSummary(name, [], 1.0, {}, pushed=True, version=7) for name in ("later", "first")]
    monkeypatch.setattr(summary, "read_all", lambda *_: newest_first)
    assert summary.read("w", "htr", "7").run_id == "first"


def test_prometheus_is_told_of_the_newest_runs(monkeypatch, tmp_path, capsys):
    numbers = range(prometheus.NEWEST + 5, 0, -1)
    runs = [RunSummary(f"{number:03}", [], 1.0, {"accepted": {}, "rejected": {}}) for number in numbers]
    monkeypatch.setattr(summary, "read_all", lambda *_, **__: runs)
    assert cli.main(["runs", "--workspace", str(tmp_path), "--prometheus", str(tmp_path / "runs.prom")]) == cli.OK
    told = re.findall(r'htr_run_seconds\{.*run="(\d+)"', (tmp_path / "runs.prom").read_text())
    assert sorted(map(int, told), reverse=True) == [*numbers][: prometheus.NEWEST]


def test_no_time_is_told_of_a_run_that_has_not_ended(note, tmp_path):
    note("killed", mlmd.Execution.RUNNING)
    note("whole")
    whole, killed = summary.read_all(str(tmp_path), "htr")
    assert (killed.seconds, killed.steps[0].seconds) == (None, None) and whole.seconds is not None
    assert recogniser_runs.listing([killed]).splitlines()[1].split() == ["killed", "unfinished"]
    assert "htr_run_seconds{" not in prometheus.runs_page([killed], "htr") and "<td>running</td>" in killed.page()


def test_a_failed_run_has_a_page_with_the_step_and_no_figures_to_compare(note, tmp_path, capsys):
    note("2026-05-04", mlmd.Execution.FAILED)
    workspace = ["--workspace", str(tmp_path)]
    assert cli.main(["report", *workspace]) == cli.OK
    page = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert "The run ended at Pusher." in page and "<code>logs</code> of the workspace" in page
    assert cli.main(["compare", "latest", "2026-05", *workspace]) == cli.USAGE
    assert "The run 2026-05-04 has no figures to compare: failed at Pusher." in capsys.readouterr().err


def test_figures_of_two_pipelines_on_a_machine_are_told_apart(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"blessed": True, "metrics": dict.fromkeys(
        ("cer", "cer_low", "cer_high", "wer", "cer_true", "cer_ratio", "f1"), 0.1)}))  # fmt: skip
    run = RunSummary("a", [], 1.0, {"accepted": {"train": 1}, "rejected": {}}, str(tmp_path))
    pages = (prometheus.runs_page([run], "htr"), prometheus.runs_page([run], "htr-lines", "pages"))
    words, lines = ({line for line in page.splitlines() if line[0] != "#"} for page in pages)
    assert 'htr_run_cer{model="htr",run="a"} 0.1' in words and 'htr_run_f1{model="htr-lines",run="a"} 0.1' in lines
    assert not words & lines


def test_a_run_whose_figures_a_power_cut_has_emptied_hides_no_other(tmp_path):
    runs = []
    for name, figures in (("whole", json.dumps({"blessed": True, "metrics": {}, "pages": 1})), ("emptied", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(figures)
        (tmp_path / name / "report.json").write_text(figures)
        runs.append(RunSummary(name, [], 1.0, {"accepted": {}, "rejected": {}}, str(tmp_path / name)))
    assert [run.outcome for run in runs] == ["blessed, not pushed", "report damaged"]
    assert runs[1].report is None and "emptied" in runs[1].page()


def test_a_setting_that_only_one_run_has_is_told_from_one_that_is_off(tmp_path):
    made = material(table(words(50)))
    figures = json.loads(json.dumps(contents.metrics(without_plots(made))))
    runs = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.csv").write_text(analysis.as_csv(made.predictions), encoding="utf-8")
        runs.append(RunSummary(name, [], 1.0, {}, str(tmp_path / name)))
    del figures["config"]["model"]["softening"], figures["config"]["language"]
    figures["config"]["gate"].update(max_cer=1.5, slice_max_cer={"writer": 0.2})
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(figures))
    figures["config"].update(model={"softening": 0.0}, language={"enabled": True, "texts": []})
    figures["config"]["gate"].update(max_cer=None, slice_max_cer={})
    (tmp_path / "new" / "metrics.json").write_text(json.dumps(figures))
    told = {" ".join(line.split()) for line in recogniser_runs.compare(*runs).splitlines()}
    assert "gate.max_cer 1.5 -> null" in told
    assert {"model.softening (not there) -> 0.0", "language.enabled (not there) -> true"} <= told
    assert "gate.slice_max_cer.writer 0.2 -> (not there)" in told


def test_the_list_of_runs_tells_what_has_become_of_their_versions(tmp_path):
    base = tmp_path / "htr"
    figures = dict.fromkeys(("reliability", "review", "distributions", "curves", "confusion"), "")
    built = {**without_plots(material(table(words(50)))), "figures": figures}
    (tmp_path / "contents.json").write_text(json.dumps(built))

    def told(number=7, folder=base, withheld=False):
        path = str(folder / str(number))
        push = {"withdrawn_path": path} if withheld else {"pushed": True, "version": number, "pushed_path": path}
        return RunSummary("a", [], 0.0, counts={}, report_folder=str(tmp_path), **push)

    assert told().version_text == "7", "another machine's folder"
    assert "</code>, and" not in told().page()
    (base / "7").mkdir(parents=True)
    assert (told().version_text, told(6).version_text) == ("7", "6 (deleted)")
    assert told(withheld=True).version_text == "7", "it was restored"
    assert "this model is version 7, which was withdrawn then." in told(withheld=True).page()
    (base / "7").rename(base / ".withdrawn-7")
    assert told().version_text == told(withheld=True).version_text == "7 (withdrawn)"
    assert "htr restore 7" in told(withheld=True).page()
    assert "</code>, and withdrawn since." in told().page() and "</code>, and deleted since." in told(6).page()
    assert told(folder=tmp_path / "elsewhere", withheld=True).version_text == "7 (withdrawn)"
    assert RunSummary("a", [], 0.0, {}, pushed=True, version=7, pushed_path="gs://b/htr/7").version_text == "7"


def test_a_blessed_model_that_was_not_pushed_yet_is_told_from_a_pushed_one(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"blessed": True}))
    steps = [Step("Evaluator", "COMPLETE", 1.0), Step("Pusher", "RUNNING", 1.0)]
    run = {"run_id": "a", "steps": steps, "seconds": 2.0, "counts": {}, "report_folder": str(tmp_path)}
    assert RunSummary(**run).outcome == "blessed, not pushed"
    assert RunSummary(**run, pushed=True).outcome == RunSummary(**run, withdrawn_path="htr/7").outcome == "blessed"
