"""A recipe: a YAML file that describes a training, checked against the trainer that it names before anything is built.

    trainer: mrt.reasoning.training.trainer:MRTTrainer    # module:class
    model: runs/warmstart/model                  # a path or a hub name
    problems: {name: countdown}                  # a problem set and its options
    tasks: {name: grid-navi, episodes: 4}        # for control: an environment and its options (docs/environments.md),
    policy: {memory: gru, hidden_size: 64}       # and the policy that is built for it
    args: {learning_rate: 2e-4, max_steps: 60}   # fields of the trainer's own arguments class
    peft: {r: 8}                                 # fields of peft.LoraConfig; leave out to train every weight
    output_dir: runs/mrt
    seed: 0

A trainer that recipes can name has two classmethods: `args_class()` (the dataclass that checks `args`) and
`from_recipe(recipe, output_dir)`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import yaml

from mrt.errors import ConfigError, nearest
from mrt.runs.code import SPEC, import_environments, import_named
from mrt.runs.fields import convert_fields, field_types, redact, show
from mrt.runs.strict_yaml import parse_yaml

SECTIONS = ("problems", "tasks", "policy", "args", "peft")
NAMED = ("problems", "tasks")  # sections that say which one by `name`
TASK_SOURCES = ("name", "gymnasium", "env")  # tasks also by a Gymnasium id, or by a class of one's own (module:Class)
SAID_ABOVE = ("output_dir", "seed")  # fields of every arguments class that a recipe states once, at its top level
WHERE_A_SERVER_IS = ("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_group_port")
MAX_BYTES = 1_000_000


class RecipeTrainer(Protocol):
    """What a recipe asks of the class that it names."""

    @classmethod
    def args_class(cls) -> type:
        """The dataclass whose fields `args` may hold."""

    @classmethod
    def from_recipe(cls, recipe: "Recipe", output_dir: Path) -> Any:
        """The trainer, ready for `train(resume_from_checkpoint=...)`."""


@dataclass(frozen=True)
class Recipe:
    """A checked recipe with its overrides applied. Mappings hold plain values, already of the types of their fields."""

    trainer: str
    model: str = ""
    problems: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    peft: Mapping[str, Any] | None = None
    output_dir: str = ""
    seed: int = 0
    description: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able and without credentials: what goes into run.json."""
        plain = {key: getattr(self, key) for key in field_types(Recipe)}
        return json.loads(json.dumps(redact(plain), default=str))

    def to_yaml(self) -> str:
        """The same as YAML, in the order of the fields."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """sha256 over everything that decides the result: not where it is written, nor how it is described."""
        return digest(self.to_dict())

    def build_args(self, args_class: type, output_dir: Path) -> Any:
        """The trainer's arguments; what its own checks refuse raises ConfigError."""
        try:
            return args_class(output_dir=str(output_dir), seed=self.seed, **self.args)
        except (TypeError, ValueError, ImportError) as error:
            raise ConfigError(f"args of {self.trainer}: {error}") from error


def named_only(value: Any) -> Any:
    """The same value with every `module:Name` in it as `Name`: where code is does not affect a result."""
    if isinstance(value, Mapping):
        return {key: named_only(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [named_only(inner) for inner in value]
    return value.split(":")[1] if isinstance(value, str) and SPEC.fullmatch(value) else value


def deciding(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved recipe decides the result: not where things are, an inference server among them (a job that
    goes on may find it on another node).
    """
    kept = {k: v for k, v in resolved.items() if k not in ("output_dir", "description")}
    if isinstance(kept.get("args"), Mapping):
        kept["args"] = {k: v for k, v in kept["args"].items() if k not in WHERE_A_SERVER_IS}
    return kept


def digest(resolved: Mapping[str, Any]) -> str:
    """The digest of a recipe that `to_dict` wrote (also one read back from run.json)."""
    decisive = deciding(named_only(resolved))
    decisive = {k: v for k, v in decisive.items() if v or k not in ("tasks", "policy")}  # as before they were there
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def load_recipe(path_or_name: str, overrides: Sequence[str] = (), *, allow_code: bool = False) -> Recipe:
    """Reads a recipe, applies `key=value` overrides, checks every key and type against the trainer's arguments class.

    A path is tried first, then the name of a packaged recipe (`countdown/mrt`). Keys are dotted
    (`args.learning_rate=1e-4`); a bare name is a top-level key, or else a field of `args`. Raises ConfigError, and
    nothing else, whatever the file holds.
    """
    source, text = _read(path_or_name)
    loaded = _parse(text, source)
    typed = [_split_override(item) for item in overrides]
    top = set(field_types(Recipe))
    for key in loaded:
        if not isinstance(key, str) or key not in top:
            raise ConfigError(f"{source}: unknown key {show(key)}; {nearest(str(key), top)}")
    for key, raw in typed:
        if key in top:
            loaded[key] = parse_yaml(raw, f"override {key}")
    for name in NAMED:
        if isinstance(loaded.get(name), str):
            loaded[name] = {"name": loaded[name]}
    loaded = {k: v for k, v in loaded.items() if v is not None}  # an empty `args:` means the defaults
    if "trainer" not in loaded:
        raise ConfigError(f"{source} names no trainer (trainer: mrt.reasoning.training.trainer:MRTTrainer)")
    recipe = Recipe(**convert_fields(Recipe, loaded, source, {k: raw for k, raw in typed if k in top}))
    args_class = import_trainer(recipe.trainer, allow_code).args_class()
    sections = {name: dict(getattr(recipe, name) or {}) for name in SECTIONS}
    texts: dict[str, dict[str, str]] = {name: {} for name in SECTIONS}
    for key, raw in typed:
        if key not in top:
            section, rest = _section_of(key, args_class, sections)
            _set_nested(sections[section], rest, parse_yaml(raw, f"override {key}"), key)
            texts[section][".".join(rest)] = raw
    recipe = _finish(recipe, args_class, sections, texts, source)
    import_environments(recipe.tasks, allow_code)
    return recipe


def _finish(
    recipe: Recipe, args_class: type, sections: dict[str, dict], texts: dict[str, dict[str, str]], source: str
) -> Recipe:
    for name in SAID_ABOVE:
        if name in sections["args"]:
            raise ConfigError(f"{source}: write '{name}' at the top level of the recipe, not in args")
    for name in ("problems", "tasks", "policy"):
        for key in sections[name]:
            if not isinstance(key, str):
                raise ConfigError(f"{source}: {name}: {show(key)} is not a name")
        given = [key for key in (TASK_SOURCES if name == "tasks" else ("name",)) if key in sections[name]]
        if name in NAMED and sections[name] and [type(sections[name][key]) for key in given] != [str]:
            also = ", or one of gymnasium and env instead" if name == "tasks" else ""
            raise ConfigError(f"{source}: {name} needs a name ({name}: {{name: ..., ...}}){also}")
    args = convert_fields(args_class, sections["args"], f"{source}: args", texts["args"])
    peft = sections["peft"] or None
    if peft is not None:
        from peft import LoraConfig

        peft = convert_fields(LoraConfig, peft, f"{source}: peft", texts["peft"])
    output_dir = recipe.output_dir or f"runs/{Path(source).stem}"
    plain: dict[str, Any] = {name: sections[name] for name in ("problems", "tasks", "policy")}
    return replace(recipe, **plain, args=args, peft=peft, output_dir=output_dir)


def import_trainer(spec: str, allow_code: bool = False) -> type[RecipeTrainer]:
    """The class behind `module:Class`. Code outside `mrt` and `classic_metarl` runs only with `allow_code`.

    Raises ConfigError for a spec of another shape, a module or class that is not there (naming the nearest), and a
    class without `args_class` and `from_recipe`.
    """
    trainer = import_named(spec, "trainer", allow_code)
    named = f"trainer {show(spec)}"
    if not isinstance(trainer, type) or not (hasattr(trainer, "args_class") and hasattr(trainer, "from_recipe")):
        raise ConfigError(f"{named} is not a trainer: it lacks the classmethods args_class and from_recipe")
    return trainer


# ---- finding and reading


def recipe_folder() -> Path:
    """Where the packaged recipes are: `recipes/` of the checkout, or the copy inside an installed wheel."""
    here = Path(str(resources.files("mrt")))
    packaged = here / "_packaged" / "recipes"
    return packaged if packaged.is_dir() else here.parent / "recipes"


def recipe_names() -> list[str]:
    """The packaged recipes, as `load_recipe` takes them (`countdown/mrt`)."""
    folder = recipe_folder()
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in _recipe_files(folder))


def _recipe_files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*.yaml") if p.relative_to(folder).parts[0] != "accelerate")


def _read(path_or_name: str) -> tuple[str, str]:
    name = re.sub(r"^(\./)?recipes/", "", path_or_name).removesuffix(".yaml")
    try:
        path = Path(path_or_name)
        if not path.is_file():
            if name not in recipe_names():
                raise ConfigError(
                    f"no recipe {show(path_or_name)}, neither a file nor a name; {nearest(name, recipe_names())}"
                )
            path = recipe_folder() / f"{name}.yaml"
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path_or_name} has more than {MAX_BYTES} bytes: that is not a recipe")
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # unreadable, no text, a name that no file system takes
        raise ConfigError(f"{show(path_or_name)} cannot be read: {error}") from error


def _parse(text: str, source: str) -> dict[Any, Any]:
    loaded = parse_yaml(text, source)
    if not isinstance(loaded, dict):
        raise ConfigError(f"{source} must be a mapping with the keys {', '.join(field_types(Recipe))}")
    return loaded


# ---- overrides


def _split_override(item: str) -> tuple[str, str]:
    key, equals, raw = item.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {show(item)} must read key=value, as in args.learning_rate=1e-4")
    return key.strip(), raw


def _section_of(key: str, args_class: type, sections: Mapping[str, Mapping]) -> tuple[str, list[str]]:
    """A dotted key names its section; a bare one that is not a top-level key can only be a field of args."""
    first, *rest = key.split(".")
    if first in SECTIONS and rest and all(rest):
        return first, rest
    if first in field_types(args_class):
        return "args", [first, *rest]
    valid = {*field_types(Recipe), *field_types(args_class), *(f"problems.{name}" for name in sections["problems"])}
    raise ConfigError(f"unknown key {show(key)} in an override; {nearest(key, valid)}")


def _set_nested(target: dict[str, Any], path: Sequence[str], value: Any, key: str) -> None:
    for name in path[:-1]:
        inner = target.get(name)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"override {key}: {name} = {show(inner, name)} is not a mapping")
        target[name] = dict(inner or {})
        target = target[name]
    target[path[-1]] = value
