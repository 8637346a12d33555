"""A wheel carries data/ as ftlab/_data (Colab has no checkout); an editable install reads data/."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DataHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"]["data"] = "ftlab/_data"
