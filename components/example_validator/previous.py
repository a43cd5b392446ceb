"""Finds the statistics that new data is compared with."""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.common import resolver


class PreviousStatistics(resolver.ResolverStrategy):
    """The latest statistics of the pipeline that are not those of the data at hand."""

    def resolve_artifacts(self, store: Any, input_dict: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Called by TFX.

        Args:
            store: ML Metadata store; unused.
            input_dict: `current` (this run's statistics), `statistics` (all of them).

        Returns:
            The same keys; `statistics` is empty where there are no others.
        """
        current = {artifact.id for artifact in input_dict["current"]}
        others = [artifact for artifact in input_dict["statistics"] if artifact.id not in current]
        latest = max(others, key=lambda artifact: artifact.id, default=None)
        return {"current": input_dict["current"], "statistics": [latest] if latest else []}
