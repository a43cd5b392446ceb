"""The log of requests when programs end: what waits for the disk is written, and nothing hangs."""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from htr_client import RequestLog
from tests.client.test_client_log import close, offer_many, rows


def test_processes_of_multiprocessing_lose_nothing_at_their_end(tmp_path):
    """They end without atexit."""
    log, context = RequestLog(tmp_path, rate=1), multiprocessing.get_context("fork")
    offer_many(log, ["parent"])
    child = context.Process(target=offer_many, args=(log, [f"child {number}" for number in range(100)]))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert sorted(row["text"] for row in rows(tmp_path) if row["text"] != "parent") == sorted(
        f"child {number}" for number in range(100)
    )
    close(log)
    assert len(rows(tmp_path)) == 101


HANDLER = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"
ENDLESS = f"""
import signal, sys
from htr_client import RequestLog

log = RequestLog(sys.argv[1], rate=0.05)
{HANDLER}
print("begun", flush=True)
while True:
    log.offer(b"PNG", "a", 0.5, "htr", 1)
"""


CLOSING = f"""
import os, signal, sys, threading, time
from htr_client import RequestLog

append = RequestLog._append
RequestLog._append = lambda *record: (time.sleep(0.02), append(*record))
log = RequestLog(sys.argv[1], rate=1)
{HANDLER}
for number in range(30):
    log.offer(b"PNG", str(number), 0.5, "htr", 1)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
log.close()
"""


def test_the_readme_has_the_handler():
    assert f"`{HANDLER}`" in (Path(__file__).parents[2] / "client" / "README.md").read_text("utf-8")


def test_a_signal_while_the_log_is_closed_loses_nothing(tmp_path):
    assert subprocess.run([sys.executable, "-c", CLOSING, tmp_path], timeout=60, check=False).returncode == 143
    assert [row["text"] for row in rows(tmp_path)] == [str(number) for number in range(30)]


def test_whoever_closes_the_log_waits_for_what_another_closes(tmp_path, monkeypatch):
    append = RequestLog._append
    monkeypatch.setattr(RequestLog, "_append", lambda *record: (time.sleep(0.01), append(*record)))
    log = RequestLog(tmp_path, rate=1)
    offer_many(log, map(str, range(20)))
    first = threading.Thread(target=log.close)
    first.start()
    time.sleep(0.02)
    close(log)
    assert len(rows(tmp_path)) == 20
    first.join()


def test_a_signal_that_ends_the_program_as_the_readme_says_loses_nothing(tmp_path):
    """Whatever the thread of the handler is doing."""
    for number in range(2):
        folder = tmp_path / str(number)
        with subprocess.Popen([sys.executable, "-c", ENDLESS, folder], stdout=subprocess.PIPE) as loop:
            assert loop.stdout.readline() == b"begun\n"
            time.sleep(0.1 + 0.05 * number)
            loop.send_signal(signal.SIGTERM)
            try:
                assert loop.wait(60) == 143
            finally:
                loop.kill()
        assert len(rows(folder)) == len(list(folder.glob("images/*"))) > 0


def _end_at(number):
    """A profiler that ends the program where Python looks for signals: at its n-th call or return from C."""
    passed = 0

    def profile(_frame, event, _):
        nonlocal passed
        if event in ("call", "c_return") and (passed := passed + 1) == number:
            sys.exit(143)

    return profile


def test_a_log_can_be_closed_wherever_a_signal_ended_the_program(tmp_path):
    """A lock that a record leaves behind would hang the process at its end."""
    log, number, ended = RequestLog(tmp_path, rate=1), 0, True
    while ended:
        log.offer(b"PNG", "a", 0.5, "htr", 1)
        number, before = number + 1, sys.getprofile()
        try:
            sys.setprofile(_end_at(number))
            log.offer(b"PNG", "b", 0.5, "htr", 1)
            ended = False
        except SystemExit:
            pass
        finally:
            sys.setprofile(before)
        close(log)
    texts = [row["text"] for row in rows(tmp_path)]
    assert number > 8 and texts.count("a") == number and 1 <= texts.count("b") < number
