"""What the workspace of a run holds, as far as others know it by that. No TFX or ML Metadata here."""

from __future__ import annotations

import os
from collections.abc import Collection

METADATA_FILE = "metadata.db"
"""Where ML Metadata notes runs."""
PIPELINE_FOLDER = "pipeline"
"""Where the artifacts of the steps lie."""
AIRFLOW_FOLDER = "airflow"
"""Where the runs of DAGs keep the compiled pipeline that they go by, in NAME/RUN/`PINNED_FILE`."""
PINNED_FILE = "pipeline.json"


def is_workspace(folder: str, names: Collection[str]) -> bool:
    """Whether runs have written into a folder; none in a bucket is one.

    Args:
        folder: Path of the folder.
        names: Names of the files in it.
    """
    return METADATA_FILE in names and os.path.isdir(os.path.join(folder, PIPELINE_FOLDER))
