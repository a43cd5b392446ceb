"""What the benchmarks compare and count; no figure of them is measured here."""

import asyncio
import json
import os
import runpy
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from tfx.types import standard_artifacts

from benchmarks import adaptation, beam, decoders, export, language, line_finder, plain, serving
from components.base_model import packing
from components.example_gen.dataset import Sample
from components.language.component import Executor
from components.language.settings import LanguageConfig
from components.line_finder.data import LabelledPage
from htr_client.decoding import BestPath
from htr_client.testing import FakeServer, png
from tests.conftest import write_dataset

ANSWER_SECONDS = 0.01
COMMANDS = [path.stem for path in Path(plain.__file__).parent.glob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_says_what_it_takes_and_sets_no_threads_for_its_children(name, monkeypatch, capsys):
    """A run that is measured has the threads that it has without the benchmark."""
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out
    assert "TF_NUM_INTRAOP_THREADS" not in os.environ


@pytest.fixture
def slow_server():
    """Address of a server that answers one request after the other."""

    class Slow(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: time.sleep(ANSWER_SECONDS) or request)

    server = grpc.server(ThreadPoolExecutor(1), [Slow()])
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(None)


def load(address, deadline):
    """Results of a closed and of an open loop that offers about four times what the server answers."""

    async def loops():
        bench = serving.Bench(address, b"image", 1, deadline, serving.Watch("", "", None))
        found = await bench.closed(2, 0.3), await bench.open(4 / ANSWER_SECONDS, 0.3)
        await bench.channel.close()
        return found

    return asyncio.run(loops())


def goodput(result):
    return float(result.line()["goodput/s"])


def test_an_open_loop_does_not_have_more_answers_a_second_than_the_server_gives(slow_server):
    closed, flooded = load(slow_server, 5)
    assert flooded.codes.keys() == {"OK"}
    assert goodput(flooded) < 1.5 * goodput(closed)


def test_a_deadline_that_passed_is_no_refusal(slow_server):
    _, flooded = load(slow_server, 0.15)
    assert flooded.codes["DEADLINE_EXCEEDED"] and not flooded.rejected


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(SystemExit, match="--no_such_flag"):
        serving.spawn(str(tmp_path), "htr", ["--no_such_flag"])


def test_an_image_on_which_nothing_is_written_has_no_place_in_the_record():
    white = cv2.imencode(".png", np.full((32, 128), 255, np.uint8))[1].tobytes()
    with FakeServer() as server:
        recorder, places = decoders.record(server.address, "htr", [png("abc"), white, b"no image", png("hello")])
    assert places[1:3] == ["", None]
    texts = [BestPath().decode(recorder.rows[int(place)][None], np.array([len(recorder.rows[int(place)])]),
                               recorder.alphabet)[0].text for place in (places[0], places[3])]  # fmt: skip
    assert texts == ["abc", "hello"]


@pytest.mark.parametrize("sizes", [[500, 500, 500], [290, 5, 5], [100] * 8, [40] * 30])
def test_as_many_images_are_drawn_as_the_row_says(sizes):
    samples = [
        Sample(f"{writer}/{number}", "", b"", "text", str(writer), "train", 9, 9, (9, 9), {}, "", False)
        for writer, size in enumerate(sizes) for number in range(size)
    ]  # fmt: skip
    splits = adaptation.draw(samples, 300, 1)
    assert {split: len(drawn) for split, drawn in splits.items()} == {"train": 270, "validation": 30}
    drawn = splits["train"] + splits["validation"]
    assert len({sample.id for sample in drawn}) == 300
    assert len({sample.writer for sample in drawn}) == min(len(sizes), 12)
    with pytest.raises(SystemExit, match=f"There are {len(samples)} images to draw from, fewer than 2000"):
        adaptation.draw(samples, 2000, 1)


def test_two_versions_that_cost_the_same_have_a_ratio_of_one(monkeypatch):
    """TensorFlow prepares for a new width once a process, whichever version meets it."""
    known = set()

    def answers(model, signature, images):
        end = time.process_time() + (0.002 if images[0] in known else 0.006)
        known.add(images[0])
        while time.process_time() < end:
            pass

    monkeypatch.setattr(export, "answers", answers)
    images = [bytes([number]) for number in range(41)]
    ratio = float(export.compare_time([None, None], images, 1, 5).split("|")[4])
    assert 0.8 < ratio < 1.25


def test_what_finding_lines_takes_is_not_what_scoring_takes(monkeypatch):
    pages = [LabelledPage("", "", np.zeros((8, 8), np.uint8), ())]
    monkeypatch.setattr(line_finder, "score_pages", lambda pairs: (list(pairs), time.sleep(0.5)))
    assert line_finder.timed(pages, lambda grey: ())[1] < 0.4


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_have_the_threads_that_htr_transcribe_gives_them(workers, sample_data, monkeypatch):
    seen = set()
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "")  # what it was before comes back
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    monkeypatch.setattr(beam, "usable_cores", lambda: 8)
    monkeypatch.setattr(beam, "transcribe", lambda *_: seen.add(os.environ["TF_NUM_INTRAOP_THREADS"]))
    options = ["--data", str(sample_data), "--model", packing.unpack("word"), "--workers", str(workers)]
    monkeypatch.setattr(sys, "argv", ["beam", *options, "--steps", "transcribe", "--images", "40"])
    beam.main()
    assert seen == {str(8 // workers)}


@pytest.mark.slow
def test_the_language_model_that_is_measured_is_that_of_the_run(tmp_path, sample_data, monkeypatch, capsys):
    monkeypatch.setattr(packing, "texts", lambda preset: ["the base's own names"] * 20)
    config, pipeline = LanguageConfig(order=5, least_labels=1), tmp_path / "pipeline"
    examples, trained, model = (kind() for kind in (standard_artifacts.Examples, *2 * [standard_artifacts.Model]))
    examples.uri = str(pipeline / "HandwritingExampleGen/examples/1")
    trained.uri, model.uri = str(pipeline / "Trainer/model/1"), str(tmp_path / "model")
    beam.example_gen(sample_data, tmp_path, [])
    shutil.copytree(tmp_path / "examples", examples.uri)
    shutil.copytree(packing.unpack("word"), pipeline / "Trainer/model/1/Format-Serving")
    told = pipeline / "Trainer/model/1/Format-Serving/assets.extra/htr.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "start": {"root_base": "word"}}))
    (pipeline / "RunReport/report/1").mkdir(parents=True)
    (pipeline / "RunReport/report/1/metrics.json").write_text(json.dumps({"config": {"language": config.model_dump()}}))
    Executor().Do(
        {"examples": [examples], "trained_model": [trained]}, {"model": [model]}, {"config": config.model_dump_json()}
    )
    facts = json.loads((tmp_path / "model/Format-Serving/assets.extra/htr.json").read_text())["language_model"]
    assert facts["base_texts"] and facts["weight"]
    monkeypatch.setattr(sys, "argv", ["language", "--workspace", str(tmp_path)])
    language.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    (row,) = (row for row in rows if row[:2] == ["5", "1"])
    numbers = [f"{facts['ngrams']}", f"{facts['bytes'] / 1000:.0f}", f"{facts['weight']:g}"]
    assert row[2:6] == [*numbers, f"{facts['validation_cer']:.4f}"]
    (cer,) = (row[1] for row in rows if row[:1] == ["the run's"])
    assert row[6] == cer


@pytest.mark.slow
@pytest.mark.either_stack
def test_the_plain_script_trains_on_as_many_images_as_it_is_told(tmp_path, monkeypatch, capsys):
    data = write_dataset(tmp_path / "data", [{"filename": f"{text}.png", "text": text} for text in "abcde"])
    monkeypatch.setattr(sys, "argv", ["plain", str(data), "4"])
    plain.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 4
