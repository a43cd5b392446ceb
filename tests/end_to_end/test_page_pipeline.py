"""`htr run --task pages` on rendered pages: from PAGE XML to a line finder that `htr read` takes, or to a refusal."""

import csv
import json

import cv2
import numpy as np
import pytest

from components.report import summary
from components.tools.base_data.rendered_text.dataset import write_dataset
from htr_client import pages
from htr_client.pages import Line, Page, find_page
from pipeline import cli
from serving.local_lines import LocalLineFinder

pytestmark = pytest.mark.slow

TEXTS = ["Dear friend and", "neighbour, the", "letter came on", "Monday with news"]
# Seconds of training: enough to run every step, not to find lines. What a network learns, test_line_finder.py checks.
FAST = ["line_finder.longest=160", "line_finder.filters=[4,8,8,8,8]", "line_training.warm_start=none",
        "line_training.epochs=1", "line_training.window=[96,128]", "data.max_rejected=20%"]  # fmt: skip
NO_BOUNDS = ["line_gate.max_cer_ratio=null", "line_gate.min_f1=null"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pages in six hands with PAGE XML, and one whose line has no baseline."""
    folder = tmp_path_factory.mktemp("pages") / "letters"
    rendered = folder.with_name("lines")
    write_dataset(rendered, TEXTS * 6, seed=5, writers=6)
    folder.mkdir()
    with (rendered / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for leaf in range(6):
        grey, lines = np.full((330, 420), 235, np.uint8), []
        for number, row in enumerate(rows[4 * leaf : 4 * leaf + 4]):
            line = cv2.imread(str(rendered / row["filename"]), cv2.IMREAD_GRAYSCALE)
            line = cv2.resize(line, (min(360, 44 * line.shape[1] // line.shape[0]), 44), interpolation=cv2.INTER_AREA)
            top, right = 30 + 70 * number, 30 + line.shape[1]
            grey[top : top + 44, 30:right] = np.minimum(grey[top : top + 44, 30:right], line)
            outline = ((30, top), (right, top), (right, top + 44), (30, top + 44))
            lines.append(Line(row["text"], ((30, top + 32), (right, top + 32)), outline))
        save(folder, f"leaf{leaf}", grey, lines)
    save(folder, "leaf6", grey, [Line("no baseline", polygon=((30, 30), (300, 30), (300, 74), (30, 74)))])
    return folder


def save(folder, name, grey, lines):
    cv2.imwrite(str(folder / f"{name}.png"), grey)
    page = Page(f"{name}.png", grey.shape[1], grey.shape[0], tuple(lines))
    (folder / f"{name}.xml").write_text(pages.write(page, "alto"), encoding="utf-8")


def htr(capfd, *arguments):
    capfd.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return code, out, err


@pytest.mark.either_stack
def test_from_pages_to_a_line_finder_in_service(folder, tmp_path, monkeypatch, capfd):
    workspace = tmp_path / "workspace"

    def run(*settings):
        options = (f"--set={setting}" for setting in (*FAST, *settings))
        data = ("--task", "pages", "--data", folder, "--workspace", workspace, "--json")
        code, out, err = htr(capfd, "run", *data, *options)
        return code, json.loads(out), err

    # A network that has learnt next to nothing misses the bounds: nothing is pushed, and it is told why.
    code, outcome, err = run()
    model_dir = workspace / "serving_model" / "htr-lines"
    assert code == cli.NOT_BLESSED and not outcome["blessed"] and not model_dir.exists()
    assert "line_gate.max_cer_ratio allows 1.15" in err and "Nothing was pushed." in err
    assert outcome["lines"] == 4 and outcome["cer_ratio"] > 1.15 and outcome["rejected"] == {"no_geometry": 1}
    assert "leaf6.xml" in (workspace / "rejected-pages.csv").read_text(encoding="utf-8")
    [report] = (workspace / "reports").iterdir()
    html = report.read_text(encoding="utf-8")
    assert "must not ship" in html and html.count("data:image/jpeg;base64,") == 1
    # One page of an unknown document: no figure is certain, and report and card say so.
    assert "Before you trust these figures" in html and "rest on 1 page only and have no intervals" in html
    assert "6 pages of 6 name no document" in html and "\u2713" not in html and "&#10003;" not in html

    # Without these bounds the same network ships; what was computed is not computed again.
    code, outcome, err = run(*NO_BOUNDS)
    assert code == 0 and outcome["blessed"] and outcome["off"] == ["line_gate.max_cer_ratio", "line_gate.min_f1"]
    states = {step.name: step.state for step in summary.read(str(workspace), "htr-lines").steps}
    assert [name for name, state in states.items() if state == "CACHED"] == ["PageExampleGen", "Trainer", "Baseline"]
    version = model_dir / str(outcome["version"])

    # The two runs can be listed, compared and looked at again.
    def about(*arguments):
        code, out, _ = htr(capfd, *arguments, "--task", "pages", "--workspace", workspace)
        assert code == 0
        return out

    ratio = f"{outcome['cer_ratio']:.3f}"
    newest, first = about("runs", "--prometheus", tmp_path / "runs.prom").splitlines()[1:]
    assert newest.split()[1:3] == ["blessed", ratio] and version.name in newest and "not blessed" in first
    series = f'htr_run_cer_ratio{{model="htr-lines",run="{newest.split()[0]}"}}'
    assert series in (tmp_path / "runs.prom").read_text(encoding="utf-8")
    told = about("compare", first.split()[0], "latest")
    assert "not blessed" in told and told.count(ratio) == 2 and "line_gate.min_f1" in told
    assert "cannot be compared" not in told
    report.unlink()
    assert about("report", first.split()[0]).strip() == str(report) and report.exists()

    card = (model_dir / f"{version.name}.model_card.md").read_text(encoding="utf-8")
    metrics = json.loads((model_dir / f"{version.name}.metrics.json").read_text(encoding="utf-8"))
    assert "6 pages name none" in card and "of other documents" not in card and "divided by document" not in card
    assert "The figures of the evaluation split rest on 1 page only" in card and "; 1 epoch of" in card
    assert metrics["unnamed_documents"] == 6
    assert "4 pages to train on" in card and "| evaluation split | 1 | 4 |" in card
    assert metrics["blessed"] and metrics["metrics"]["cer_ratio"] == outcome["cer_ratio"]

    # It finds the lines for `htr read` from now on.
    image = folder / "leaf0.png"
    code, out, err = htr(capfd, "read", image, "--kind", "page", "--format", "json", "--workspace", workspace)
    with LocalLineFinder(version) as finder:
        found = find_page(image, finder.maps)
    assert code == 0 and f"The line finder is {version}" in err
    read = [[tuple(point) for point in line["baseline"]] for line in json.loads(out)["lines"]]
    assert read == [[*line.baseline] for line in found.lines]
    code, out, _ = htr(capfd, "versions", "--task", "pages", "--workspace", workspace)
    assert code == 0 and str(version) in out and "newest" in out

    # A run that failed cannot be compared, and it is told where runs are listed.
    code, _, _ = run(*NO_BOUNDS, "line_training.learning_rate=1e30")
    assert code not in (0, cli.NOT_BLESSED)
    code, _, err = htr(capfd, "compare", first.split()[0], "latest", "--task", "pages", "--workspace", workspace)
    assert code == cli.USAGE and "has no figures to compare" in err
    assert f"`htr runs --task pages --workspace {workspace}` lists the runs." in err


def test_orchestrators_refuse_pages(tmp_path, capfd):
    code, _, err = htr(capfd, "compile", "kubeflow", tmp_path / "out.yaml", "--set", "task=pages")
    assert code == cli.USAGE and "task: pages trains with `htr run` only" in err


def test_what_cannot_work_is_told_before_the_first_step(folder, tmp_path, capfd):
    options = ("run", "--task", "pages", "--workspace", tmp_path / "workspace")
    code, _, err = htr(capfd, *options)
    assert code == cli.USAGE and "--data DIR" in err
    settings = [f"line_training.warm_start={tmp_path}/none", f"line_gate.recogniser={tmp_path}/none"]
    code, _, err = htr(capfd, *options, "--data", folder, *(f"--set={setting}" for setting in settings))
    assert code == cli.USAGE and all(setting.partition("=")[0] in err for setting in settings)
    assert not (tmp_path / "workspace").exists()
