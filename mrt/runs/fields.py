"""Values that a person typed, brought to the types of a dataclass: wrong ones are reported, never guessed.

YAML reads `1e-4` as text, `no` as false and `7` as a number; the type of the field decides what was meant.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from mrt.errors import ConfigError, nearest

SHOWN = 80  # characters of a value that a message quotes
NOT_SECRET = frozenset({"eos_token", "pad_token", "bos_token", "unk_token", "mask_token", "image_token"})
SECRET_ENDINGS = ("key", "token", "secret", "password")
SECRET_TEXT = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})")


def is_secret(key: str) -> bool:
    """Whether a key of this name holds a credential (`HF_TOKEN`, `api_key`), as opposed to a special token's text."""
    last = key.lower().rsplit(".", 1)[-1]
    return last not in NOT_SECRET and (last in SECRET_ENDINGS or last.endswith(tuple("_" + e for e in SECRET_ENDINGS)))


def redact(value: Any, key: str = "", by_key: bool = True) -> Any:
    """The value as it may be written to disk or shown: credentials become `***`, keys become text, at every depth.

    A credential is recognised by its key (`hub_token`), unless `by_key` is off, or by its own form (`hf_...`).
    """
    if by_key and key and is_secret(key) and value is not None and not isinstance(value, bool):
        return "***"
    if isinstance(value, Mapping):
        return {str(k): redact(v, str(k), by_key) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(v, "", by_key) for v in value]
    return SECRET_TEXT.sub("***", value) if isinstance(value, str) else value


def show(value: Any, key: str = "") -> str:
    """`repr` for a message: short, and without a credential in it."""
    text = repr(redact(value, key))
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def field_types(cls: type) -> dict[str, Any]:
    """Name -> type of every field that the dataclass takes at construction."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def convert_fields(
    cls: type, values: Mapping[str, Any], where: str, typed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """`values` with every one brought to its field's type in the dataclass `cls`.

    `where` opens the messages (`recipe.yaml: args`); `typed` has the text of the values that came from the command
    line, which a field of type text takes as it stands. Raises ConfigError for an unknown key (naming the nearest) or
    a wrong type.
    """
    hints = field_types(cls)
    converted = {}
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{where}: unknown key {show(key)}; {nearest(str(key), set(hints))}")
        try:
            converted[key] = convert(value, hints[key], (typed or {}).get(key))
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{where}: {key} = {show(value, key)} must be {expected(hints[key])}") from error
    return converted


def convert(value: Any, hint: Any, text: str | None = None) -> Any:
    """The value as the type `hint` has it, or a TypeError or ValueError; `text` is how the command line had it."""
    if hint is Any or isinstance(hint, typing.TypeVar):
        return value
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(hint), text)
    if _is_exact(value, hint):
        return _convert_inside(value, hint)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        return _finite(float(value))
    if hint is int and isinstance(value, float | str):
        if float(value) == int(float(value)):
            return int(float(value))
        raise ValueError(value)
    if hint is str and text is not None:
        return text
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _convert_enum(value, hint)
    raise TypeError(f"{value!r} is not {hint}")


def _convert_union(value: Any, options: tuple[Any, ...], text: str | None) -> Any:
    """An option that the value already is comes first; then those that it can become, text last of all."""
    enums = [o for o in options if isinstance(o, type) and issubclass(o, Enum)]
    if enums and not isinstance(value, Enum):  # `SchedulerType | str`: the text must be one of the type's values
        options = tuple(o for o in options if o is not str)
    exact = [o for o in options if _is_exact(value, o)]
    for option in exact + [o for o in options if o is not str and o not in exact] + [o for o in options if o is str]:
        try:
            return convert(value, option, text)
        except (TypeError, ValueError, OverflowError):
            continue
    raise TypeError(f"{value!r} is not one of {options}")


def _is_exact(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    if hint is None or hint is type(None):
        return value is None
    if origin is typing.Literal:
        return any(value == option and type(value) is type(option) for option in typing.get_args(hint))
    if not isinstance(origin, type):
        return False
    if origin in (int, float):
        return isinstance(value, origin) and not isinstance(value, bool)
    if origin is tuple:
        return isinstance(value, list | tuple)
    return isinstance(value, origin)


def _convert_inside(value: Any, hint: Any) -> Any:
    inner = typing.get_args(hint)
    origin = typing.get_origin(hint) or hint
    if origin is float:
        return _finite(value)
    if origin is list and inner:
        return [convert(item, inner[0]) for item in value]
    if origin is dict and len(inner) == 2:
        return {convert(k, inner[0]): convert(v, inner[1]) for k, v in value.items()}
    return value


def _finite(number: float) -> float:
    if math.isnan(number):
        raise ValueError("not a number")
    return number


def _convert_enum(value: Any, hint: type[Enum]) -> str:
    text = "no" if value is False else value  # YAML's reading of a bare `no`
    for option in hint:
        if text in (option.value, option.name):
            return str(option.value)
    raise ValueError(value)


def expected(hint: Any) -> str:
    """The type in words, for a message: `a number`, `a whole number or nothing`, `one of 'no', 'steps'`."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing"}
    if isinstance(hint, type) and hint in words:
        return words[hint]
    origin = typing.get_origin(hint) or hint
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if any(isinstance(o, type) and issubclass(o, Enum) for o in options):
            options = tuple(o for o in options if o is not str)
        return " or ".join(dict.fromkeys(expected(option) for option in options))
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(option) for option in typing.get_args(hint))
    if isinstance(origin, type) and issubclass(origin, Enum):
        return "one of " + ", ".join(repr(option.value) for option in origin)
    if isinstance(origin, type) and issubclass(origin, list | tuple):
        return "a list"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping (name: value)"
    return f"a {getattr(origin, '__name__', origin)}, which a recipe cannot hold"
