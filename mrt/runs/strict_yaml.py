"""YAML as recipes use it: safe, no key given twice, no aliases, and one kind of error whatever the file holds."""

from typing import Any

import yaml

from mrt.errors import ConfigError

# yaml's constructors let Python's own errors through for values like `!!bool x`, `2020-13-45` or ten thousand brackets.
_FAILURES = (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError)


class _Loader(yaml.SafeLoader):
    """Safe YAML without its two pitfalls for a reader: a key given twice, and aliases that expand without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not used here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.YAMLError(f"the key '{key.value[:80]}' is given twice")
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """What the text says, in plain Python values; ConfigError, opened by `where`, for anything that is not valid."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _FAILURES as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
