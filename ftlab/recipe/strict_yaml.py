"""YAML read strictly: a doubled key or a malformed line is an error with its place."""

from __future__ import annotations

from typing import Any

import yaml

from ftlab.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a doubled key instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping without doubled keys; RecipeError with both lines otherwise."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in seen:
                raise RecipeError(
                    f"line {line}: key {key!r} appears twice (first in line {seen[key]})."
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """YAML text -> keys and values; RecipeError with line and column when it is malformed."""
    try:
        values = _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError(f"{where}{place}: not readable as YAML ({error.problem}).") from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(
            f"{where}: expected lines of `key: value`, found {type(values).__name__}."
        )
    return values
