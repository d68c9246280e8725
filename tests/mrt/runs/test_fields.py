"""Typed values against the types of fields."""

import dataclasses
from typing import Any

import pytest

from mrt.errors import ConfigError
from mrt.runs.fields import convert, convert_fields, expected, field_types, is_secret, redact, show
from tests.support.fake_trainers import FakeArgs, Strategy


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        ("1e-4", float, 1e-4),  # YAML reads this as text
        (3, float, 3.0),
        ("1e3", int, 1000),
        (2.0, int, 2),
        (True, bool, True),
        ("x", str, "x"),
        (None, float | None, None),
        ("2e-5", float | None, 2e-5),
        (False, Strategy | str, "no"),  # YAML reads a bare `no` as false
        ("steps", Strategy | str, "steps"),
        ("STEPS", Strategy | str, "steps"),
        ("all", None | str | list[str], "all"),
        (["a"], None | str | list[str], ["a"]),
        (["1e-1", 2], list[float], [0.1, 2.0]),
        ({"a": {"b": 1}}, dict[str, Any] | str | None, {"a": {"b": 1}}),
        (False, bool | str, False),
        (float("inf"), float, float("inf")),
    ],
)
def test_convert(value: Any, hint: Any, result: Any) -> None:
    converted = convert(value, hint)
    assert converted == result
    assert type(converted) is type(result)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("fast", float),
        (True, float),
        (True, int),
        (1.5, int),
        (1, bool),
        ("yes", bool),
        (7, str),
        (None, str),
        (float("nan"), float),
        ("nan", float),
        (10**400, float),
        ("stps", Strategy | str),
        ([1], None | str | list[str]),
        ({"a": 1}, list[float]),
        ("x", FakeArgs | None),
    ],
)
def test_convert_refuses(value: Any, hint: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        convert(value, hint)


def test_the_command_line_may_write_text_as_it_likes() -> None:
    assert convert(7, str | None, text="007") == "007"
    assert convert(7, int | str, text="007") == 7
    with pytest.raises(TypeError):
        convert(7, str)


def test_messages_name_key_value_and_type() -> None:
    with pytest.raises(ConfigError, match=r"r.yaml: args: learning_rate = 'fast' must be a number$"):
        convert_fields(FakeArgs, {"learning_rate": "fast"}, "r.yaml: args")
    with pytest.raises(ConfigError, match=r"unknown key 'lerning_rate'; did you mean 'learning_rate'\?"):
        convert_fields(FakeArgs, {"lerning_rate": 1}, "r.yaml: args")
    with pytest.raises(ConfigError, match=r"save_strategy = 'stps' must be one of 'no', 'steps'$"):
        convert_fields(FakeArgs, {"save_strategy": "stps"}, "r.yaml: args")
    with pytest.raises(ConfigError, match=r"loss = 'x' must be one of 'grpo', 'dapo'$"):
        convert_fields(FakeArgs, {"loss": "x"}, "r.yaml: args")


def test_expected_in_words() -> None:
    assert expected(float | None) == "a number or nothing"
    assert expected(list[int]) == "a list"
    assert expected(dict[str, int]) == "a mapping (name: value)"
    assert expected(FakeArgs) == "a FakeArgs, which a recipe cannot hold"


def test_fields_that_are_not_taken_at_construction_are_no_keys() -> None:
    @dataclasses.dataclass
    class Args:
        a: int = 0
        derived: int = dataclasses.field(init=False, default=0)

    assert set(field_types(Args)) == {"a"}


def test_secrets() -> None:
    assert all(is_secret(key) for key in ("HF_TOKEN", "api_key", "args.hub_token", "password", "WANDB_API_KEY"))
    assert not any(is_secret(key) for key in ("eos_token", "tokens", "key_size", "num_input_tokens", "keyboard"))
    token = "hf_" + "Ab1" * 10
    content = {"args": {"hub_token": "x", "eos_token": "<|end|>", "note": f"use {token} here"}, 3: [{"API_KEY": ["y"]}]}
    assert redact(content) == {
        "args": {"hub_token": "***", "eos_token": "<|end|>", "note": "use *** here"},
        "3": [{"API_KEY": "***"}],
    }
    assert redact({"hub_token": None}) == {"hub_token": None}
    assert "secret-value" not in show("secret-value", "hub_token")
    assert len(show("x" * 1000)) < 100
