"""The log of requests: a sample, readable as a dataset, that never slows or breaks the service."""

import asyncio
import csv
import multiprocessing
import resource
import stat
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from htr_client import AsyncHtrClient, HtrClient, RequestLog, kinds, testing
from htr_client.request_log import FIELDS
from htr_client.testing import ALPHABET, find_bars, png
from tests.conftest import until


def close(log):
    """Close, in a thread: one that waits for ever would keep the tests from ending."""
    thread = threading.Thread(target=log.close, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def rows(folder):
    found = []
    for path in sorted(folder.glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            found += csv.DictReader(file)
    return found


def test_answers_are_logged_with_their_images(server, tmp_path):
    log = RequestLog(tmp_path / "log", rate=1)
    with HtrClient(server.address, log=log) as client:
        client.transcribe(png("one"))
        list(client.transcribe_many([png("two"), b"rubbish", png("three")]))
    log.close()
    found = rows(tmp_path / "log")
    assert sorted(row["text"] for row in found) == ["one", "three", "two"]
    for row in found:
        assert tuple(row) == FIELDS
        assert (tmp_path / "log" / row["filename"]).read_bytes() == png(row["text"])
        assert row["model_version"] == "1" and 0 < float(row["confidence"]) < 1 and row["time"].endswith("+00:00")
    assert log.counts == (3, 3, 0, 0)


def test_confidences_of_lines_keep_their_digits(tmp_path):
    log, confidences = RequestLog(tmp_path, rate=1), [0.0, 3.9e-10, 5.81432e-06, 0.012345, 0.998877, 1.0]
    for confidence in confidences:
        log.offer(b"\x89PNG", "a line", confidence, "htr", 1)
    log.close()
    assert [float(row["confidence"]) for row in rows(tmp_path)] == confidences


def test_originals_can_be_found_again(server, tmp_path):
    """By the name of the image and the id of the request."""
    (tmp_path / "a.png").write_bytes(png("path"))
    (tmp_path / "m\udcfcller.png").write_bytes(png("bytes"))  # a name that is not UTF-8
    ids = iter(["first", "alphabet", "language model", "second", "third", "fourth"])
    log = RequestLog(tmp_path / "log", rate=1)
    with HtrClient(server.address, log=log, metadata=lambda: [("x-request-id", next(ids))]) as client:
        assert client.transcribe(tmp_path / "a.png").source == str(tmp_path / "a.png")
        assert client.transcribe(png("named"), source="form 12, field 3").source == "form 12, field 3"
        client.transcribe(png("nameless"))
        client.transcribe(tmp_path / "m\udcfcller.png")
    log.close()
    assert {row["text"]: (row["source"], row["request_id"]) for row in rows(tmp_path / "log")} == {
        "path": (str(tmp_path / "a.png"), "first"),
        "named": ("form 12, field 3", "second"),
        "nameless": ("", "third"),
        "bytes": (f"{tmp_path}/m\\udcfcller.png", "fourth"),
    }


def test_a_path_may_name_the_original(server, tmp_path):
    log = RequestLog(tmp_path / "log", rate=1)
    with HtrClient(server.address, log=log) as client:
        client.transcribe(png("form"), source=Path("forms") / "12.png")
        client.transcribe(png("next"))
    close(log)
    assert {row["text"]: row["source"] for row in rows(tmp_path / "log")} == {"form": "forms/12.png", "next": ""}


def test_asynchronous_client_logs_too(server, tmp_path):
    log = RequestLog(tmp_path, rate=1)

    async def ask():
        async with AsyncHtrClient(server.address, log=log) as client:
            await client.transcribe(png("async"))

    asyncio.run(ask())
    log.close()
    assert [row["text"] for row in rows(tmp_path)] == ["async"]


def test_rate_is_the_share_that_is_logged(tmp_path):
    log = RequestLog(tmp_path / "a", rate=0.1, queue_size=10_000)
    for _ in range(5000):
        log.offer(b"\x89PNG", "x", 0.5, "htr", 1)
    log.close()
    assert log.counts.seen == 5000 and 400 < log.counts.written < 600 and log.counts.dropped == 0
    half = [RequestLog(tmp_path / name, rate=0.5) for name in ("c", "d")]
    for log in half:
        offer_many(log, map(str, range(64)))
        log.close()
    chosen = [[row["text"] for row in rows(log.folder)] for log in half]
    assert chosen[0] != chosen[1], "each process draws its own"
    none = RequestLog(tmp_path / "b", rate=0)
    none.offer(b"\x89PNG", "x", 0.5, "htr", 1)
    none.close()
    assert not (tmp_path / "b").exists()


def test_full_queue_drops_and_counts_and_never_waits(tmp_path, caplog):
    log = RequestLog(tmp_path, rate=1, queue_size=4, max_bytes=140_000_000)
    slowest = 0.0
    for _ in range(3000):
        began = time.perf_counter()
        log.offer(b"\x89PNG" + bytes(50_000), "x", 0.5, "htr", 1)
        slowest = max(slowest, time.perf_counter() - began)
    log.close()
    seen, written, dropped, failed = log.counts
    assert dropped > 0 and seen == 3000 == written + dropped and failed == 0
    assert len(rows(tmp_path)) == written
    assert not [record for record in caplog.records if "max_bytes" in record.getMessage()], "what is dropped takes none"
    assert slowest < 1  # a thread may wait for the processor, but none for the disk


def test_room_is_limited_for_a_day_and_that_is_told_once(tmp_path, caplog, monkeypatch):
    log, now = RequestLog(tmp_path, rate=1, max_bytes=1000), time.time()
    for day in (0, 1):
        monkeypatch.setattr(time, "time", lambda day=day: now + day * 24 * 3600)
        for _ in range(5):
            log.offer(bytes(400), "x", 0.5, "htr", 1)
    log.close()
    assert log.counts == (10, 4, 6, 0)
    told = [record.message for record in caplog.records if "max_bytes=1000 is used up" in record.message]
    assert len(told) == 2


def test_a_full_queue_does_not_hide_that_the_room_is_used_up(tmp_path, caplog):
    log = RequestLog(tmp_path, rate=1, queue_size=1, max_bytes=30_000_000)
    while not log.counts.dropped:
        log.offer(b"x", "x", 0.5, "htr", 1)
    for _ in range(2):
        log.offer(bytes(30_000_001), "x", 0.5, "htr", 1)
    log.close()
    told = [record.getMessage() for record in caplog.records if "left out of the log" in record.getMessage()]
    assert len(told) == 2 and "wait for the disk" in told[0] and "max_bytes" in told[1]


def test_unwritable_folder_is_counted_and_answers_come_all_the_same(server, tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    log = RequestLog(tmp_path / "file", rate=1)
    with HtrClient(server.address, log=log) as client:
        assert client.transcribe(png("still")).text == "still"
        assert client.transcribe(png("there")).text == "there"
    log.close()
    assert log.counts == (2, 0, 0, 2)
    assert [record.message.startswith("requests cannot be logged") for record in caplog.records] == [True]


def test_a_record_that_cannot_be_written_does_not_end_the_log(tmp_path, caplog):
    log = RequestLog(tmp_path, rate=1, queue_size=4)
    log.offer(b"\x89PNG", "half a character \udcff", 0.5, "htr", 1)
    until(lambda: log.counts.failed == 1)
    for text in "abcd":  # as many as the queue takes
        log.offer(b"\x89PNG", text, 0.5, "htr", 1)
    close(log)
    assert log.counts == (5, 4, 0, 1) and [row["text"] for row in rows(tmp_path)] == list("abcd")
    assert [record.message.startswith("requests cannot be logged") for record in caplog.records] == [True]


def _offer_to_a_disk_that_is_full_for_a_moment(log):
    log.offer(b"\x89PNG", "anna", 0.5, "htr", 1)
    until(lambda: log.counts.written == 1)
    [table] = log.folder.glob("*.csv")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (table.stat().st_size + 75, before[1]))
    log.offer(b"\x89PNG", "a text with a comma, whose quotation mark stays open", 0.5, "htr", 1)
    until(lambda: log.counts.failed == 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.offer(b"\x89PNG", "berta", 0.5, "htr", 1)
    log.close()


def test_a_disk_that_is_full_for_a_moment_spoils_no_other_row(tmp_path):
    log = RequestLog(tmp_path, rate=1)
    child = multiprocessing.get_context("fork").Process(target=_offer_to_a_disk_that_is_full_for_a_moment, args=(log,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert [row["text"] for row in rows(tmp_path)] == ["anna", "berta"]
    assert {row["filename"] for row in rows(tmp_path)} == {f"images/{path.name}" for path in tmp_path.glob("images/*")}


def test_a_system_without_threads_to_spare_gets_its_answers(server, tmp_path, monkeypatch, caplog):
    log = RequestLog(tmp_path, rate=1)
    start = threading.Thread.start

    def none_for_the_log(thread):
        if thread.name == "htr-log":
            raise RuntimeError("can't start new thread")
        start(thread)

    with HtrClient(server.address, log=log) as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_for_the_log)
            assert client.transcribe(png("still")).text == "still"
        assert "can't start new thread" in caplog.text
        assert client.transcribe(png("there")).text == "there"
    close(log)
    assert log.counts == (2, 1, 0, 1) and [row["text"] for row in rows(tmp_path)] == ["there"]


def test_closed_log_begins_again_and_files_are_private(tmp_path):
    log = RequestLog(tmp_path, rate=1)
    for text in ("first", "second"):
        log.offer(b"\xff\xd8", text, 0.5, "htr", 1)
        log.close()
    assert sorted(row["text"] for row in rows(tmp_path)) == ["first", "second"]
    for path in [*tmp_path.glob("*.csv"), *tmp_path.glob("images/*.jpg")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_many_threads_lose_nothing(tmp_path):
    log = RequestLog(tmp_path, rate=1, queue_size=10_000)
    threads = [
        threading.Thread(target=lambda: [log.offer(b"\x89PNG", "x", 0.5, "htr", 1) for _ in range(100)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert log.counts == (800, 800, 0, 0) and len({row["filename"] for row in rows(tmp_path)}) == 800


def _offer_and_close(log):
    log.offer(b"\x89PNG", "child", 0.5, "htr", 1)
    log.close()


def test_forked_process_writes_files_of_its_own(tmp_path):
    log = RequestLog(tmp_path, rate=1)
    log.offer(b"\x89PNG", "parent", 0.5, "htr", 1)
    child = multiprocessing.get_context("fork").Process(target=_offer_and_close, args=(log,))
    child.start()
    child.join(30)
    log.close()
    assert child.exitcode == 0
    assert sorted(row["text"] for row in rows(tmp_path)) == ["child", "parent"]
    assert len(list(tmp_path.glob("*.csv"))) == 2


def offer_many(log, texts):
    for text in texts:
        log.offer(b"\x89PNG", text, 0.5, "htr", 1)


def test_a_log_can_be_deleted_by_its_age(tmp_path, monkeypatch, far_east):
    """A service lives for months: what it logs in a day is in a table of that day, as its images are."""
    log, now = RequestLog(tmp_path, rate=1), 1_780_000_000
    for day in (0, 1, 2):
        monkeypatch.setattr(time, "time", lambda day=day: now + day * 24 * 3600)
        offer_many(log, [f"{day} a", f"{day} b"])
    close(log)
    tables = sorted(tmp_path.glob("*.csv"))
    assert [path.name[:17] for path in tables] == ["requests-20260528", "requests-20260529", "requests-20260530"]
    for number, path in enumerate(tables):
        with open(path, encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        assert [row["text"] for row in found] == [f"{number} a", f"{number} b"]
        assert all(row["filename"].startswith(f"images/{path.stem}-") for row in found)
    assert {row["filename"] for row in rows(tmp_path)} == {f"images/{path.name}" for path in tmp_path.glob("images/*")}


@pytest.mark.parametrize(("work", "texts"), [(RequestLog.close, []), (_offer_and_close, ["child"])])
def test_a_process_that_was_forked_in_the_middle_of_a_record_ends(tmp_path, work, texts):
    log = RequestLog(tmp_path, rate=1)
    child = multiprocessing.get_context("fork").Process(target=work, args=(log,))
    with log._lock:  # as another thread of the parent may hold it
        child.start()
        child.join(30)
    ended = child.exitcode
    child.kill()
    assert ended == 0 and [row["text"] for row in rows(tmp_path)] == texts


@pytest.mark.parametrize("settings", [{"rate": 1.5}, {"rate": -0.1}, {"queue_size": 0}, {"max_bytes": -1}])
def test_impossible_settings(tmp_path, settings):
    with pytest.raises(ValueError):
        RequestLog(tmp_path, **settings)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The path of a page of five lines; the line finder is not sure of any."""

    def unsure(data):
        maps, scale = find_bars(data)
        faint = cv2.dilate(maps[..., 0], np.ones((7, 1), np.uint8)) // 3
        return np.dstack([np.maximum(maps[..., 0], faint), maps[..., 1:]]), scale

    monkeypatch.setattr(testing, "find_bars", unsure)
    grey = np.full((400, 400), 255, np.uint8)
    for bottom, text in zip(range(70, 370, 60), ("abca", "bcab", "cabc", "aabb", "bbcc"), strict=True):
        letters = [ALPHABET.index(letter) * 9 for letter in text * 21]
        grey[bottom - 30 : bottom, 30:366] = np.repeat(letters, 4)
    cv2.imwrite(str(tmp_path / "page.png"), grey)
    return str(tmp_path / "page.png")


@pytest.mark.parametrize(("certainty", "tried"), [(0.9, 3), (0.6, 6)], ids=["upright", "perhaps upside down"])
def test_lines_that_only_tell_which_way_up_a_page_is_are_no_answers(
    kind, server, tmp_path, monkeypatch, page, certainty, tried
):
    monkeypatch.setattr(testing, "_CERTAINTY", certainty)
    log = RequestLog(tmp_path / "log", rate=1)
    with kind(server.address, log=log) as client:
        assert len(client.find_page(page).lines) == 5 and len(server.model.seen) == tried
        assert log.counts.seen == 0 and "htr_client_images_total{" not in client.metrics.page()
        server.model.seen.clear()
        lines = client.transcribe_page(page).lines
        assert len(server.model.seen) == tried + 2, "what was tried upright is not sent again"
        assert 'htr_client_images_total{model="htr",version="1",outcome="ok"} 5\n' in client.metrics.page()
    log.close()
    found = rows(tmp_path / "log")
    assert sorted(row["text"] for row in found) == sorted(line.text for line in lines) and len(lines) == 5
    assert {row["source"] for row in found} == {page}


def test_a_page_takes_the_name_that_transcribe_takes(kind, server, tmp_path, page):
    log = RequestLog(tmp_path / "log", rate=1)
    with kind(server.address, log=log) as client:
        assert client.find_page(page, source="form 12").image == "form 12"
        assert client.transcribe_page(page, source="form 12").image == "form 12"
        assert client.transcribe_page(page).image == Path(page).name
    log.close()
    assert [row["source"] for row in rows(tmp_path / "log")] == ["form 12"] * 5 + [page] * 5


def test_lines_of_images_of_all_kinds_name_their_page(server, tmp_path, page):
    log = RequestLog(tmp_path / "log", rate=1)
    with HtrClient(server.address, log=log) as client:
        [read] = kinds.transcribe(client, [page], "auto")
    log.close()
    assert [row["source"] for row in rows(tmp_path / "log")] == [page] * len(read.lines)
    assert len(server.model.seen) == len(read.lines) == 5
