"""Finds the model that a candidate has to beat."""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.common import resolver

_CANDIDATE, _MODEL, _BLESSING = "candidate", "model", "model_blessing"


class PreviousBlessedModel(resolver.ResolverStrategy):
    """The latest blessed model that is not the candidate itself.

    TFX's own LatestBlessedModelStrategy resolves to the candidate once that is blessed: an identical second run would
    then evaluate a model against itself and push it again instead of finding everything cached.
    """

    def resolve_artifacts(self, store: Any, input_dict: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Called by TFX.

        Args:
            store: ML Metadata store; unused.
            input_dict: `candidate` (this run's model), `model` (all models), `model_blessing` (all blessings).

        Returns:
            The same keys; `model` and its `model_blessing` are empty where there is no such model.
        """
        candidates = {artifact.id for artifact in input_dict[_CANDIDATE]}
        blessings = {
            blessing.get_int_custom_property("current_model_id"): blessing
            for blessing in sorted(input_dict[_BLESSING], key=lambda artifact: artifact.id)
            if blessing.get_int_custom_property("blessed") == 1
        }
        # Ordered by blessing, not by model: an older model that was evaluated again is the one in service.
        best = max(
            (m for m in input_dict[_MODEL] if m.id in blessings and m.id not in candidates),
            key=lambda model: blessings[model.id].id,
            default=None,
        )
        return {
            _CANDIDATE: input_dict[_CANDIDATE],
            _MODEL: [best] if best else [],
            _BLESSING: [blessings[best.id]] if best else [],
        }
