"""Model families as facts: chat template (tests/fixtures/templates), special tokens, end of turn, think tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mrt.reasoning.traces.tags import COMMAND, GEMMA_4, HARMONY, KIMI_K3, PLAIN_TAGS, Tags
from tests.support.latex_tokenizer import TEMPLATES, small_vocabulary, tokenizer_of

THINK = PLAIN_TAGS
SEED, MISTRAL = ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]")
CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
KIMI = ("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>", "[BOS]", "[EOS]")
GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
COHERE = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")


@dataclass(frozen=True)
class Family:
    """`tags` are those in which it was trained to think (None: none), `added` those of them that are tokens of the
    vocabulary, `end` the token with which a turn ends, `close` the text of a forced close after half a line.
    """

    name: str
    special: tuple[str, ...]
    end: str
    tags: Tags | None = None
    added: tuple[str, ...] = ()
    bos: str | None = None
    eos: str = ""
    close: str = "\n</think>\n\n"
    kind: str = "bytes"
    template: str = ""
    opened: bool = False  # by the generation prompt
    shows: bool = False  # the template renders a thought that comes in a field

    def tokenizer(self, vocabulary: str = "") -> Any:
        """With the small vocabulary of its kind, or another one in the format of `tokenizers`."""
        fast = tokenizer_of(vocabulary or small_vocabulary(self.kind), self.special, self.added)
        fast.eos_token, fast.pad_token = self.eos or self.end, "<|pad|>"
        if self.bos:
            fast.bos_token = self.bos
        fast.chat_template = (TEMPLATES / f"{self.template or self.name}.jinja").read_text(encoding="utf-8")
        return fast


FAMILIES = (
    Family("qwen3", CHATML, "<|im_end|>", THINK, THINK, shows=True),
    Family("qwen3_thinking", CHATML, "<|im_end|>", THINK, THINK, opened=True, shows=True),
    Family("qwen2_5_math", CHATML, "<|im_end|>"),
    Family("qwq", CHATML, "<|im_end|>", THINK, THINK, opened=True),
    Family("r1_distill", DEEPSEEK, DEEPSEEK[1], THINK, THINK, bos=DEEPSEEK[0], opened=True),
    Family("r1_distill_llama", (*LLAMA, *DEEPSEEK), DEEPSEEK[1], THINK, THINK, bos=DEEPSEEK[0], opened=True,
           template="r1_distill"),
    Family("deepseek_v3_1", DEEPSEEK, DEEPSEEK[1], THINK, THINK, bos=DEEPSEEK[0], opened=True),
    Family("llama3_1", LLAMA, "<|eot_id|>", bos=LLAMA[0]),
    Family("gemma3", GEMMA, "<end_of_turn>", bos="<bos>", eos="<eos>", kind="sentencepiece"),
    Family("gemma4", ("<bos>", "<eos>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>"), "<turn|>",
           GEMMA_4, bos="<bos>", eos="<eos>", kind="sentencepiece", close="\n<channel|>"),
    Family("mistral", ("<s>", "</s>", "[INST]", "[/INST]"), "</s>", bos="<s>", kind="sentencepiece"),
    Family("magistral", ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", *MISTRAL), "</s>",
           MISTRAL, bos="<s>", close="[/THINK]"),
    Family("phi4_reasoning", (*CHATML, "<|im_sep|>"), "<|im_end|>", THINK, THINK),
    Family("gpt_oss", ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>", "<|constrain|>"),
           "<|return|>", HARMONY, close=HARMONY[1], shows=True),
    Family("glm4", ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"), "<|user|>", THINK,
           THINK, eos="<|endoftext|>", close="</think>\n", shows=True),
    Family("smollm2", CHATML, "<|im_end|>"),
    Family("smollm3", CHATML, "<|im_end|>", THINK, THINK, close="\n</think>\n"),
    Family("granite3", ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), "<|end_of_text|>", THINK),
    Family("seed_oss", ("<seed:bos>", "<seed:eos>", "<seed:pad>"), "<seed:eos>", SEED, SEED, bos="<seed:bos>",
           close="</seed:think>\n", shows=True),
    Family("kimi_k2", KIMI, "<|im_end|>", THINK, THINK, eos="[EOS]", shows=True),
    Family("kimi_k3", ("<|open|>", "<|sep|>", "<|close|>", "<|end_of_msg|>"), "<|end_of_msg|>", KIMI_K3,
           close=KIMI_K3[1], opened=True, shows=True),
    Family("command_a", (*COHERE, *COMMAND[:1], "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
           "<|END_RESPONSE|>", COMMAND, bos=COHERE[0], eos=COHERE[1], close=COMMAND[1], shows=True),
    Family("olmo3", CHATML, "<|endoftext|>", THINK, opened=True, eos="<|endoftext|>"),
)  # fmt: skip
