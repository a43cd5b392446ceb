"""Which compiled pipeline the steps of an Airflow run go by: one for the whole run, also when another is compiled.

Each task starts anew from the file that `htr compile airflow` wrote last. So the first step of a run keeps a copy of it
in the workspace, by which later steps go. A task that somebody clears begins with what is compiled then, as do the
steps after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common import storage
from components.common.workspace import AIRFLOW_FOLDER, PINNED_FILE

_KEPT = 20  # runs of a DAG
_DONE = b"done"


@contextlib.contextmanager
def pinned(document: dict[str, Any], step: str, run_id: str, tries: str) -> Iterator[dict[str, Any]]:
    """Yields the compiled pipeline of a run while one of its steps is at work.

    Args:
        document: What was compiled last.
        step: Id of the step.
        run_id: Airflow's id of the run.
        tries: Airflow's `max_tries` of the task, which changes when the task is cleared, but not with a retry.
    """
    folder = _folder(document) / hashlib.sha256(run_id.encode()).hexdigest()[:16]
    kept, seen = folder / PINNED_FILE, folder / f"{step}.tries"
    # What has been done runs again only because somebody wants it.
    cleared = seen.exists() and seen.read_bytes() != tries.encode()
    if cleared or not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        storage.write(str(kept), json.dumps(document).encode())
        _forget_old_runs(folder.parent)
    storage.write(str(seen), tries.encode())
    found = json.loads(kept.read_text(encoding="utf-8"))
    if found["pipeline"] != document["pipeline"]:
        print(
            "This run goes on with the settings that it began with. Others have been compiled since: they hold from "
            f"the next run on, or from {step} on if its task is cleared.",
            flush=True,
        )
    yield found
    storage.write(str(seen), _DONE)


def _folder(document: dict[str, Any]) -> Path:
    return Path(document["workspace"]) / AIRFLOW_FOLDER / document["name"]


def _forget_old_runs(folder: Path) -> None:
    runs = sorted(folder.glob(f"*/{PINNED_FILE}"), key=lambda path: path.stat().st_mtime)
    for path in runs[:-_KEPT]:
        shutil.rmtree(path.parent, ignore_errors=True)
