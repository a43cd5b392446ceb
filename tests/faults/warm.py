"""Starts `htr` in processes of their own without the ten seconds of imports: they are forked from this one.

Each line of standard input is a JSON object, answered by a line with a JSON value:

    {"start": [argument, ...], "stdout": file, "stderr": file, "clock": Unix time}   process id
    {"poll": process id}                                                             exit code or null
    {"mount": [argument, ...]}                                                       null

With `clock`, that is the time in the process, and it stands still. What is mounted is seen here and in the processes
only, if this one was started in a namespace of its own.
"""

import datetime
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from typing import Any

IMPORTS = (
    "pipeline.runners.local_runner", "pipeline.cli", "components.trainer.training",
    "components.transform.preprocessing", "components.evaluator.tfma_metrics", "components.batch_transcriber.batch",
    "serving.server", "components.tools.data_check.check", "components.report.recogniser_runs",
    "tfx.components.statistics_gen.executor", "tfx.components.trainer.executor", "tfx.components.transform.executor",
)  # fmt: skip


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a million objects, which each process would go through when it ends
    for line in sys.stdin:
        order = json.loads(line)
        answer = None
        if "start" in order:
            answer = os.fork()
            if not answer:
                return become(order)
        elif "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            subprocess.run(["mount", *order["mount"]], check=True)
        print(json.dumps(answer), flush=True)


def become(order: dict[str, Any]) -> None:
    """Is the command from now on."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    if "clock" in order:
        set_clock(order["clock"])
    sys.argv = ["htr", *order["start"]]
    from pipeline import cli

    sys.exit(cli.main())


def set_clock(moment: float) -> None:
    """Stops the process's clock, as Python code reads it."""

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(moment, tz)

    time.time = lambda: moment
    datetime.datetime = Datetime


if __name__ == "__main__":
    main()
