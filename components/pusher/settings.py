"""Settings of Pusher and the serving check: where blessed models go."""

from __future__ import annotations

from pydantic import Field

from components.common.settings import PathText, Section


class PushConfig(Section):
    """Where blessed models go."""

    model_dir: PathText | None = Field(
        None, description="base directory of the servable; <workspace>/serving_model/<name> if unset"
    )
    keep_versions: int = Field(
        5, ge=1, description="number of versions that are kept; older ones are deleted after a push"
    )
    server_command: list[str] = Field(
        [],
        description="model server of the serving check, e.g. [tensorflow_model_server]; the embedded one if empty",
    )
