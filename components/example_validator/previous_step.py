"""Finds the statistics that new data is compared with."""

from __future__ import annotations

from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.common import resolver

_INPUTS = (metadata_store_pb2.Event.INPUT, metadata_store_pb2.Event.DECLARED_INPUT)
_DONE = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)


class PreviousStatistics(resolver.ResolverStrategy):
    """The statistics that a run accepted last and that are not those of the data at hand.

    Data that ended its run by `drift.fail` is no measure for the data after it, which would only have to stay close.
    """

    def resolve_artifacts(self, store: Any, input_dict: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Called by TFX.

        Args:
            store: ML Metadata store.
            input_dict: `current` (this run's statistics), `statistics` (all of them).

        Returns:
            The same keys; `statistics` is empty where there are no others.
        """
        current = {artifact.id for artifact in input_dict["current"]}
        accepted = _accepted(store, [artifact.id for artifact in input_dict["statistics"]])
        others = [artifact for artifact in input_dict["statistics"] if artifact.id in accepted.keys() - current]
        latest = max(others, key=lambda artifact: accepted[artifact.id], default=None)
        return {"current": input_dict["current"], "statistics": [latest] if latest else []}


def _accepted(store: Any, statistics: list[int]) -> dict[int, int]:
    """Statistics that an ExampleValidator has found good enough to go on, with its latest execution that did.

    Executions tell which data came last: data that returns has its statistics, and their id, from the first time.
    """
    validators = {kind.id for kind in store.get_execution_types() if kind.name.endswith("ExampleValidator")}
    events = [event for event in store.get_events_by_artifact_ids(statistics) if event.type in _INPUTS]
    good = {
        execution.id
        for execution in store.get_executions_by_id({event.execution_id for event in events})
        if execution.type_id in validators and execution.last_known_state in _DONE
    }
    ordered = sorted((event.execution_id, event.artifact_id) for event in events if event.execution_id in good)
    return {artifact: execution for execution, artifact in ordered}
