"""Recipes: what is read, what overrides do, what is refused and in which words, and a fuzz of garbled ones."""

import json
import random
from pathlib import Path

import pytest

from mrt.cli import main as cli
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe, digest, import_trainer, load_recipe, recipe_folder, recipe_names
from tests.support.fake_trainers import FakeArgs, FakeTrainer

VALID = """\
trainer: tests.support.fake_trainers:FakeTrainer
model: some/model
problems: {name: countdown, count: 3, top: 12}
args:
  learning_rate: 1e-4
  max_steps: 5
  save_strategy: no
  report_to: []
  model_init_kwargs: {dtype: float32}
output_dir: runs/there
seed: 3
description: a recipe for tests
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "valid.yaml"
    path.write_text(VALID)
    return path


def load(path: Path, *overrides: str) -> Recipe:
    return load_recipe(str(path), overrides, allow_code=True)


def test_values_have_the_types_of_their_fields(path: Path) -> None:
    recipe = load(path)
    assert recipe.args["learning_rate"] == 1e-4
    assert recipe.args["save_strategy"] == "no"
    assert recipe.problems == {"name": "countdown", "count": 3, "top": 12}
    assert (recipe.model, recipe.output_dir, recipe.seed, recipe.peft) == ("some/model", "runs/there", 3, None)


def test_output_dir_is_named_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "little.yaml"
    path.write_text("trainer: tests.support.fake_trainers:FakeTrainer\nargs:\n")
    assert load(path) == Recipe("tests.support.fake_trainers:FakeTrainer", output_dir="runs/little")


def test_overrides(path: Path) -> None:
    recipe = load(
        path,
        "args.learning_rate=2e-5",
        "max_steps=9",  # bare, a field of args
        "seed=7",  # bare, a top-level key although args has a field of that name too
        "problems.count=4",
        "model_init_kwargs.dtype=bfloat16",
        "args.model_init_kwargs.attn=eager",
        "run_name=007",
        "output_dir=1",
        "description=a: b",
        "max_steps=10",
    )
    assert recipe.args["learning_rate"] == 2e-5
    assert recipe.args["max_steps"] == 10  # the last one counts
    assert recipe.args["model_init_kwargs"] == {"dtype": "bfloat16", "attn": "eager"}
    assert recipe.args["run_name"] == "007"
    assert (recipe.seed, recipe.problems["count"], recipe.output_dir) == (7, 4, "1")
    assert load(path, "problems=files").problems == {"name": "files"}
    assert "model_init_kwargs" not in load(path, "args={}").args


def test_peft_keys_are_those_of_lora(path: Path) -> None:
    assert load(path, "peft.r=8", "peft.lora_dropout=1e-1").peft == {"r": 8, "lora_dropout": 0.1}
    with pytest.raises(ConfigError, match="peft: unknown key 'lora_alfa'; did you mean 'lora_alpha'"):
        load(path, "peft.lora_alfa=8")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("args.lerning_rate=1", "unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ("lerning_rate=1", "unknown key 'lerning_rate' in an override; did you mean 'learning_rate'"),
        ("modle=x", "unknown key 'modle' in an override; did you mean 'model'"),
        ("count=4", "did you mean 'problems.count'"),
        ("arg.max_steps=1", "unknown key 'arg.max_steps'"),
        ("args.=1", "unknown key 'args.'"),
        ("args.max_steps=1.5", "max_steps = 1.5 must be a whole number"),
        ("max_steps.deep=1", "max_steps = 5 is not a mapping"),
        ("seed=x", "seed = 'x' must be a whole number"),
        ("args.seed=1", "write 'seed' at the top level"),
        ("args.output_dir=x", "write 'output_dir' at the top level"),
        ("model=[1,2", "override model is not valid YAML"),
        ("model", "must read key=value"),
        ("=3", "must read key=value"),
        ("problems={count: 3}", "problems needs a name"),
        ("args=3", "args = 3 must be a mapping"),
        ("trainer=tests.support.fake_trainers:Nothing", "no such class"),
    ],
)
def test_overrides_that_are_refused(path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(path, override)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("model: x", "names no trainer"),
        ("trainer: a:b\nmodle: x", "unknown key 'modle'; did you mean 'model'"),
        ("trainer: a:b\n1: x", "unknown key 1"),
        ("trainer: a:b\ntrainer: a:b", "the key 'trainer' is given twice"),
        ("trainer: a:b\nargs: {x: &a [1], y: *a}", "aliases are not used"),
        ("trainer: a:b\nargs: " + "[" * 5000, "not valid YAML"),
        ("trainer: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("trainer: a:b\nseed: !!bool x", "not valid YAML"),
        ("trainer: a:b\nseed: 2020-13-45", "not valid YAML"),
        ("trainer: [", "not valid YAML"),
        ("trainer: 3", "trainer = 3 must be text"),
        ("trainer: os.path", "must read module:Class"),
        ("trainer: os:system", "allow it with --allow-code"),
        ("trainer: mrt.recip:Recipe", "no module 'mrt.recip'; did you mean 'mrt.runs.recipe'"),
        ("trainer: mrt.runs.recipe:Recipee", "no such class; did you mean 'Recipe'"),
        ("trainer: mrt.runs.recipe:Recipe", "lacks the classmethods"),
        ("trainer: mrt.runs.recipe:load_recipe", "is not a trainer"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["nope", "countdown/mrtt", "", "..", "../../etc/passwd", "a" * 5000, "a\0b", "tests"])
def test_names_that_are_no_recipe(name: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(name)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00trainer")
    (tmp_path / "huge.yaml").write_bytes(b"#" * 2_000_000)
    for name in ("binary.yaml", "huge.yaml"):
        with pytest.raises(ConfigError, match=name):
            load_recipe(str(tmp_path / name))


def test_code_from_elsewhere_needs_consent() -> None:
    with pytest.raises(ConfigError, match="--allow-code"):
        import_trainer("tests.support.fake_trainers:FakeTrainer")
    assert import_trainer("tests.support.fake_trainers:FakeTrainer", allow_code=True) is FakeTrainer
    with pytest.raises(ConfigError, match="lacks the classmethods"):
        import_trainer("tests.support.fake_trainers:NoTrainer", allow_code=True)


def test_what_the_arguments_refuse_is_told(path: Path) -> None:
    recipe = load(path, "max_steps=-1")
    with pytest.raises(ConfigError, match="max_steps cannot be negative"):
        recipe.build_args(FakeArgs, Path("x"))
    args = load(path).build_args(FakeArgs, Path("x"))
    assert (args.output_dir, args.seed, args.max_steps) == ("x", 3, 5)


def test_digest_is_of_what_decides_the_result(path: Path) -> None:
    digest = load(path).digest()
    assert load(path, "output_dir=elsewhere", "description=other").digest() == digest
    assert load(path, "learning_rate=0.0001").digest() == digest  # the same number, written otherwise
    assert load(path, "learning_rate=0.0002").digest() != digest
    assert load(path, "seed=4").digest() != digest


def test_no_credential_is_written(path: Path) -> None:
    secret = "hf_" + "Zz9" * 10
    recipe = load(path, f"hub_token={secret}", "problems.api_key=abc123", f"description=with {secret}")
    assert recipe.args["hub_token"] == secret
    for text in (json.dumps(recipe.to_dict()), recipe.to_yaml()):
        assert secret not in text
        assert "abc123" not in text
    path.write_text(VALID.replace("max_steps: 5", f"hub_token: [{secret}]"))
    with pytest.raises(ConfigError, match=r"hub_token = '\*\*\*' must be text") as caught:
        load(path)
    assert secret not in str(caught.value)


def test_a_written_recipe_is_a_recipe(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.yaml"
    again.write_text(load(path, "peft.r=4").to_yaml())
    assert load(again) == load(path, "peft.r=4")


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    assert recipe == load_recipe(f"recipes/{name}.yaml") == load_recipe(str(recipe_folder() / f"{name}.yaml"))


# ---- fuzz

PIECES = [
    "",
    " ",
    "\n",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a",
    "*a",
    "!!bool",
    "!!python/none",
    "'",
    '"',
    "#",
    "|",
    "?",
    "%",
]
PIECES += [
    "\t",
    "\0",
    "\x85",
    "é",
    "𝕏",
    "null",
    "true",
    "1e-4",
    "2020-13-45",
    "0b_",
    ".nan",
    "<<",
    "9" * 5000,
    "~",
    "---",
    "...",
]
KEYS = [
    "trainer",
    "model",
    "args",
    "args.learning_rate",
    "problems.name",
    "peft.r",
    "peft",
    "seed",
    "x",
    "args.",
    ".",
    "a.b.c",
]


def garble(rng: random.Random) -> tuple[str, list[str]]:
    """A valid recipe with a few accidents, and a few overrides of which most are nonsense."""
    lines = VALID.splitlines()
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        line, column = lines[at], rng.randint(0, len(lines[at]))
        accident = rng.randrange(6)
        if accident == 0:
            lines[at] = line[:column] + rng.choice(PIECES) + line[column:]
        elif accident == 1:
            lines[at] = line[:column] + line[column + 1 :]
        elif accident == 2:
            lines.insert(at, rng.choice(lines))
        elif accident == 3:
            lines[at] = line.split(":")[0] + ": " + rng.choice(PIECES)
        elif accident == 4:
            lines[at] = " " * rng.randint(0, 3) + line.lstrip()
        else:
            lines[at] = line[:column] + chr(rng.randint(0, 0x2FF)) + line[column:]
    overrides = [
        f"{rng.choice(KEYS)}={rng.choice(PIECES)}{rng.choice(PIECES)}" for _ in range(rng.choice((0, 0, 1, 2)))
    ]
    return "\n".join(lines), overrides


def fuzz(count: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """How many were refused: with a ConfigError, and by the command with exit code 2, one JSON object, no traceback."""
    refused = 0
    path = folder / "garbled.yaml"
    for seed in range(count):
        text, overrides = garble(random.Random(seed))
        path.write_text(text, encoding="utf-8")
        try:
            load(path, *overrides)
            continue
        except ConfigError:
            refused += 1
        assert cli.main(["train", str(path), *overrides, "--allow-code", "--json"]) == 2, seed
        out, err = capsys.readouterr()
        assert json.loads(out)["kind"] == "ConfigError", seed
        assert len(err) < 2000, seed
        assert "Traceback" not in err, seed
    return refused


def test_fuzz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 50 <= fuzz(100, tmp_path, capsys) < 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fuzz_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz(10_000, tmp_path, capsys) > 5_000


def test_a_digest_does_not_depend_on_where_code_stands() -> None:
    recipe = {"trainer": "old.place:Trainer", "policy": {"memory": "old.memories:GRU", "size": 4}, "args": {}}
    moved = {"trainer": "new.room.place:Trainer", "policy": {"memory": "new.memories:GRU", "size": 4}, "args": {}}
    assert digest(recipe) == digest(moved)
    assert digest(recipe) != digest({**moved, "trainer": "new.room.place:Other"})
