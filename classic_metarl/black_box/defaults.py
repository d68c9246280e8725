"""A system's own policy where a recipe does not say otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mrt.runs.recipe import Recipe


def with_policy(recipe: Recipe, policy: Mapping[str, Any]) -> Recipe:
    """The recipe with `policy` under its own; one that goes on from a saved model is left as it is.

    Options of a memory belong to that memory: they are dropped where the recipe names another.
    """
    if recipe.model:
        return recipe
    own = dict(policy)
    if recipe.policy.get("memory", own.get("memory")) != own.get("memory"):
        own.pop("memory_options", None)
    return replace(recipe, policy={**own, **recipe.policy})
