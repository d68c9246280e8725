"""What decides the samples of an evaluation, and the fingerprints by which a folder knows that it is the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.engines.opening import check_engine
from mrt.reasoning.evaluation.examples import WAYS
from mrt.reasoning.models.gguf_files import resolve_model
from mrt.reasoning.problems import Problem

CHUNK = 50  # problems sampled together, at most
CHUNK_TOKENS = 250_000  # thinking tokens that a kill may cost, at most, save that a chunk holds a whole problem
VLLM_CHUNK_TOKENS = 8_000_000  # with vLLM, which has hundreds of sequences in flight, and waits for the last of a chunk
CUES = ("Wait", "But wait", "Alternatively", "But hold on")  # the authors' order (pass_at_k_extrapolate.py)


@dataclass(frozen=True)
class EvalConfig:
    """What decides the samples; a folder holds the evaluation of one such setting.

    `answer_tokens` bounds every forced answer (default: what the format allows), `own_answer_tokens` the answer that
    the model writes behind a thought that it closed itself (default: `answer_tokens`, or else 2,048 as far as the
    context allows). `thinking` and `think_tags` are those of `mrt.reasoning.traces.templates.prepare_thinking`. `votes`
    answers are forced at every boundary for [maj@p]_j; a sampled probe takes its J from the same answers.
    `extensions` are numbers of continue cues appended where a thought ends, each followed by at most
    `extension_tokens` tokens, cue included. `window` is the number of episodes that the linearized evaluation keeps in
    sight (0: none is run), `window_tokens` how far one context may grow before it slides. `engine` and its
    `engine_options` are those of `mrt.reasoning.engines.opening.open_engine`. `shots` solved problems from `shots_from`
    (a split, or a file) stand before each, as `turns` of the conversation or as `text` (see `examples.py`).
    """

    model: str
    problems: str
    dials: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    n: int = 4
    budgets: tuple[int, ...] = ()
    limit: int | None = None
    seed: int = 0
    probe: str = "auto"
    probe_samples: int = 4
    segmenter: str = "cues"
    segmenter_options: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    answer_tokens: int | None = None
    top_p: float = 1.0
    top_k: int = 0
    votes: int = 0
    extensions: tuple[int, ...] = ()
    extension_tokens: int = 2048
    cues: tuple[str, ...] = CUES
    window: int = 0
    window_tokens: int = 512
    window_budgets: tuple[int, ...] = ()
    thinking: str = "auto"
    think_tags: tuple[str, ...] = ()
    own_answer_tokens: int | None = None
    engine: str = "transformers"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    shots: int = 0
    shots_from: str = ""
    shots_as: str = "turns"

    def __post_init__(self) -> None:
        grids = {"budgets": self.budgets, "extensions": self.extensions, "window_budgets": self.window_budgets}
        for name, grid in grids.items():
            if list(grid) != sorted(set(grid)) or any(value < 0 for value in grid):
                raise ConfigError(f"{name} {list(grid)} must ascend, none below 0")
        if self.n < 1 or not self.budgets or self.budgets[-1] < 1:
            raise ConfigError(
                f"n={self.n} must be at least 1 and budgets {list(self.budgets)} ascend to a number above 0"
            )
        if 0 in self.extensions or self.extension_tokens < 2 or not self.cues:
            raise ConfigError("extensions are counted from 1, of at least 2 tokens each, with at least one cue")
        if min(self.votes, self.window, self.top_k) < 0 or self.window_tokens < 1:
            raise ConfigError("votes, window and top_k must not be negative, window_tokens at least 1")
        check_engine(self.engine, self.engine_options)
        if self.shots < 0 or self.shots_as not in WAYS or bool(self.shots) != bool(self.shots_from):
            raise ConfigError(
                f"shots={self.shots} must not be negative and goes with shots_from={self.shots_from!r} (a split, or a "
                f"file); shots_as={self.shots_as!r} must be one of {', '.join(WAYS)}"
            )
        if not 0 < self.top_p <= 1 or self.temperature < 0:
            raise ConfigError(
                f"top_p={self.top_p} must be above 0 and at most 1, temperature={self.temperature} from 0 on"
            )

    @property
    def full(self) -> int:
        """The full budget of thinking tokens, C_0."""
        return self.budgets[-1]

    @property
    def chunk(self) -> int:
        """Problems sampled, written and seeded together: all of them, or none, are there after a kill."""
        if self.engine != "transformers":
            return max(1, VLLM_CHUNK_TOKENS // (self.n * self.full))
        return max(1, min(CHUNK, CHUNK_TOKENS // (self.n * self.full)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return json.loads(json.dumps({**vars(self), "dials": dict(self.dials)}, default=dict))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """What a field says that an older eval.json does not have."""
        values = {
            one.name: one.default_factory() if one.default_factory is not MISSING else one.default
            for one in fields(cls)
        }
        return json.loads(json.dumps({name: value for name, value in values.items() if value is not MISSING}))

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> EvalConfig:
        """From eval.json, also one of an older version; what else stands there is left alone."""
        names = {one.name for one in fields(cls)}
        found = {name: value for name, value in stored.items() if name in names}
        made: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in found.items()}
        return cls(**made)


def fingerprint_model(path: str) -> dict[str, str]:
    """{"weights", "tokenizer"}: sha256 over the files of a local folder (config, safetensors; tokenizer, template), or
    the revision of a hub model.

    Raises:
        ConfigError: for a folder without weights, and a hub model that cannot be found.
    """
    folder = Path(resolve_model(path))
    if not folder.is_dir():
        return {"weights": _hub_revision(path)}
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise ConfigError(f"model '{path}' cannot be loaded: the folder holds no weights (*.safetensors)")
    spelling = [f for f in sorted(folder.iterdir()) if f.suffix in (".json", ".jinja", ".model", ".txt")]
    spelling = [
        f for f in spelling if not f.name.startswith(("config", "generation_config", "model", "trainer", "all_"))
    ]
    return {"weights": _sha256([folder / "config.json", *weights]), "tokenizer": _sha256(spelling)}


def fingerprint_problems(problems: Sequence[Problem]) -> str:
    """sha256 over keys, prompts and gold answers in their order: the same problems in the same words."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.key, problem.prompt, problem.solution]).encode() + b"\n")
    return digest.hexdigest()


def _hub_revision(name: str) -> str:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model '{name}' cannot be loaded: {str(error).splitlines()[0]}") from error
    return f"{name}@{getattr(config, '_commit_hash', None) or 'unknown revision'}"


def _sha256(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()
