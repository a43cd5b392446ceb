"""What a run trains, `task` in the configuration: a recogniser from labelled images, or a line finder from pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.tasks.pages import Pages
from pipeline.tasks.task import Task
from pipeline.tasks.text import Text

if TYPE_CHECKING:
    from pipeline.config import Config

_TASKS: dict[str, Task] = {task.name: task for task in (Text(), Pages())}


def task_of(config: Config) -> Task:
    """The task of a configuration.

    Args:
        config: All settings.
    """
    return _TASKS[config.task]
