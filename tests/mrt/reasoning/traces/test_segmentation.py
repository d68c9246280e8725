import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mrt.errors import ConfigError
from mrt.reasoning.traces.segmentation import (
    CUES,
    SEGMENTERS,
    Blocks,
    Cues,
    Custom,
    Paragraphs,
    join,
    make_segmenter,
    split,
    token_bytes,
)

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
PAPER_CUES = [
    "Wait",
    "But wait",
    "Alternatively",
    "Is there another way to think about this?",
    "But let me double-check",
    "But hold on",
]


def byte_level(tokens):
    """A byte-level tokenizer: the 256 bytes, then `tokens` (plain text), never merged by itself."""
    words = [BYTE_LEVEL.pre_tokenize_str(token)[0][0] for token in tokens]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*ALPHABET, *words]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = BYTE_LEVEL, decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def tokenised(*tokens):
    """(ids, tokenizer) where every argument is one token."""
    tokenizer = byte_level(tokens)
    return [tokenizer.convert_tokens_to_ids(BYTE_LEVEL.pre_tokenize_str(t)[0][0]) for t in tokens], tokenizer


BYTES = byte_level([])
MIXED = byte_level(["等等", "\n\nWait", " é"])


def texts(ids, ends, tokenizer):
    return [b"".join(token_bytes(part, tokenizer)).decode() for part in split(ids, ends)]


def by_bytes(text, segmenter):
    """Segment `text` with one token a byte; the episodes as text."""
    ids = BYTES(text)["input_ids"]
    assert len(ids) == len(text.encode())
    return texts(ids, segmenter(ids, BYTES), BYTES)


# --- the bytes of tokens -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 256 + 3)))
@settings(deadline=None, max_examples=200)
def test_bytes_of_any_ids_are_the_decoded_text(ids):
    assert b"".join(token_bytes(ids, MIXED)).decode("utf-8", "replace") == MIXED.decode(ids)


def test_a_character_over_several_tokens_keeps_its_bytes():
    ids = BYTES("é等")["input_ids"]
    assert token_bytes(ids, BYTES) == [b"\xc3", b"\xa9", b"\xe7", b"\xad", b"\x89"]


def test_special_tokens_and_ids_outside_the_vocabulary():
    assert token_bytes([len(BYTES) - 1, len(BYTES), -1, 2**31, 2**40], BYTES) == [b"<|im_end|>", b"", b"", b"", b""]


def test_sentencepiece_with_byte_fallback():
    vocab = {token: i for i, token in enumerate(["<unk>", "<0x0A>", "▁Wait", "<0xE7>", "a"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert token_bytes([4, 1, 1, 2, 3], fast) == [b"a", b"\n", b"\n", b" Wait", b"\xe7"]
    assert Cues(min_paragraphs=0)([4, 1, 1, 2, 4], fast) == [3, 5]


def test_word_level_tokens_stand_for_themselves():
    vocab = {token: i for i, token in enumerate(["<unk>", "7", "+", "\n\nWait", "15"])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert token_bytes([1, 2, 4, 3], fast) == [b"7", b"+", b"15", b"\n\nWait"]
    assert Cues(min_paragraphs=0)([1, 2, 3, 4, 3, 1], fast) == [2, 4, 6]


# --- cues ----------------------------------------------------------------------------------------------------------


def test_the_cut_goes_before_the_token_with_the_first_character_of_the_cue():
    for tokens, ends in [
        (("a", ".\n\n", "b", "\n\n", "c", "\n\n", "Wait", "!"), [6, 8]),  # the blank line ends the episode before
        (("a", ".\n\n", "b", "\n\n", "c", "\n\nWait", "!"), [5, 7]),  # one token, the cue is inside
        (("a", ".\n\n", "b", "\n\n", "c", ".\n\nW", "ait", "!"), [5, 8]),  # its first letter is in a token with more
        (("a", ".\n\n", "b", "\n\n", "c", "\n", "\n", "W", "a", "it"), [7, 10]),
    ]:
        ids, tokenizer = tokenised(*tokens)
        assert Cues()(ids, tokenizer) == ends, tokens


def test_a_token_without_text_before_the_cue_stays_behind():
    ids, tokenizer = tokenised("a\n\nb\n\nc\n\n", "Wait")
    assert Cues()([ids[0], 10**6, ids[1]], tokenizer) == [2, 3]


def test_cues_that_share_a_token_cut_once_and_the_first_token_never():
    ids, tokenizer = tokenised("a\n\nWait\n\nWait", "b", "\n\nWait\n\nWait", "c")
    assert Cues(min_paragraphs=0)(ids, tokenizer) == [2, 4]


@pytest.mark.parametrize("cue", PAPER_CUES)
def test_every_cue_of_the_paper_opens_an_episode(cue):
    assert by_bytes(f"a\n\nb\n\nc\n\n{cue} d", Cues()) == ["a\n\nb\n\nc\n\n", f"{cue} d"]


def test_the_english_list_is_the_papers():
    assert list(CUES["en"]) == PAPER_CUES


@pytest.mark.parametrize("text", ["a\n\nb\n\nc\n\nHmm, wait", "a\n\nb\n\nc\n\nwait", "a\n\nb\n\nc\nWait", "a b c Wait"])
def test_no_cut_without_a_cue_at_the_start_of_a_paragraph(text):
    assert by_bytes(text, Cues()) == [text]


def test_the_first_paragraph_never_cuts():
    assert by_bytes("Wait, a\n\nb", Cues(min_paragraphs=0)) == ["Wait, a\n\nb"]
    assert by_bytes("\n\nWait, a\n\nWait", Cues(min_paragraphs=0)) == ["\n\nWait, a\n\n", "Wait"]
    ids, tokenizer = tokenised("\n\nWait", "a")
    assert Cues(min_paragraphs=0)(ids, tokenizer) == [2]


def test_two_paragraphs_after_a_cut_are_spared():
    # Paragraph:  0      1       2       3        4        5        6
    text = "a\n\nWait 1\n\nWait 2\n\nWait 3\n\nWait 4\n\nWait 5\n\nWait 6"
    assert by_bytes(text, Cues()) == ["a\n\nWait 1\n\nWait 2\n\n", "Wait 3\n\nWait 4\n\nWait 5\n\n", "Wait 6"]
    assert len(by_bytes(text, Cues(min_paragraphs=1))) == 4  # cuts at 2, 4, 6
    assert len(by_bytes(text, Cues(min_paragraphs=0))) == 7


def paper_rule(text, max_cuts):
    """The authors' rule over text, written out: paragraphs, cuts, the rest at the end."""
    paragraphs, steps, previous = text.split("\n\n"), [], 0
    for i, paragraph in enumerate(paragraphs):
        opens = any(paragraph.startswith(cue) for cue in PAPER_CUES)
        if opens and previous not in (i, i - 1, i - 2) and len(steps) < max_cuts:
            steps.append("\n\n".join(paragraphs[previous:i]) + "\n\n")
            previous = i
    return [*steps, "\n\n".join(paragraphs[previous:])]


@given(st.lists(st.sampled_from([*PAPER_CUES, "x", "So Wait", "é\nWait", "But"]), min_size=1, max_size=25))
@settings(deadline=None, max_examples=150)
def test_agrees_with_the_rule_over_text(paragraphs):
    text = "\n\n".join(paragraphs)
    for cuts in (2, 99):
        assert by_bytes(text, Cues(max_episodes=cuts + 1)) == paper_rule(text, cuts)


def test_limit_and_groups():
    text = "a" + "".join(f"\n\nWait {n}" for n in range(1, 7))  # 7 episodes
    ids = BYTES(text)["input_ids"]
    ends = Cues(min_paragraphs=0)(ids, BYTES)
    assert len(ends) == 7
    assert Cues(min_paragraphs=0, max_episodes=3)(ids, BYTES) == [*ends[:2], ends[-1]]
    assert Cues(min_paragraphs=0, max_episodes=1)(ids, BYTES) == [ends[-1]]
    assert Cues(min_paragraphs=0, group_size=3)(ids, BYTES) == [ends[2], ends[5], ends[6]]
    assert Cues(min_paragraphs=0, group_size=7)(ids, BYTES) == [ends[6]]
    assert Cues(min_paragraphs=0, group_size=50)(ids, BYTES) == [ends[6]]
    assert Cues(min_paragraphs=0, max_episodes=4, group_size=2)(ids, BYTES) == [ends[1], ends[6]]


def test_blank_lines_with_spaces_and_many_blank_lines():
    assert by_bytes("a\n \nb\r\n\r\nc\n\n\n\n  Wait", Cues()) == ["a\n \nb\r\n\r\nc\n\n\n\n  ", "Wait"]
    assert by_bytes("a\n\n\n\n\n\nWait", Cues()) == ["a\n\n\n\n\n\nWait"]  # blank lines are not paragraphs


def test_other_languages_and_characters_over_several_tokens():
    assert by_bytes("甲\n\n乙\n\n丙\n\n等等，不对", Cues("zh")) == ["甲\n\n乙\n\n丙\n\n", "等等，不对"]
    assert by_bytes("甲\n\n乙\n\n丙\n\n等等，不对", Cues()) == ["甲\n\n乙\n\n丙\n\n等等，不对"]
    assert by_bytes("a\n\nb\n\nc\n\nWarte mal", Cues("de")) == ["a\n\nb\n\nc\n\n", "Warte mal"]
    assert by_bytes("a\n\nb\n\nc\n\nMais attends", Cues("fr")) == ["a\n\nb\n\nc\n\n", "Mais attends"]
    assert by_bytes("a\n\nb\n\nc\n\n¿Hay otra forma?", Cues(["en", "es"])) == ["a\n\nb\n\nc\n\n", "¿Hay otra forma?"]


def test_own_cues_and_case():
    text = "a\n\nb\n\nc\n\nHMM, ÉTRANGE"
    assert len(by_bytes(text, Cues(cues=["hmm"]))) == 1
    assert len(by_bytes(text, Cues(cues=["hmm"], case_sensitive=False))) == 2
    assert len(by_bytes(text, Cues(None, cues=["hmm, étrange"], case_sensitive=False))) == 2
    assert len(by_bytes("a\n\nb\n\nc\n\nWait", Cues(None, cues=["hmm"]))) == 1
    assert len(by_bytes("a\n\nb\n\nc\n\nWAIT", Cues(case_sensitive=False))) == 2
    assert Cues(cues=["Hmm"]).cues == ["Hmm"]


# --- paragraphs and blocks -----------------------------------------------------------------------------------------


def test_paragraphs_are_grouped_to_the_minimum():
    text = "aa\n\nbb\n\ncccccccc\n\ndd"  # paragraphs of 4, 4, 10 and 2 tokens
    assert by_bytes(text, Paragraphs(1, None)) == ["aa\n\n", "bb\n\n", "cccccccc\n\n", "dd"]
    assert by_bytes(text, Paragraphs(4, None)) == ["aa\n\n", "bb\n\n", "cccccccc\n\ndd"]  # a short end joins
    assert by_bytes(text, Paragraphs(5, None)) == ["aa\n\nbb\n\n", "cccccccc\n\ndd"]
    assert by_bytes(text, Paragraphs(5, 11)) == ["aa\n\nbb\n\n", "cccccccc\n\n", "dd"]  # unless it gets too long
    assert by_bytes(text, Paragraphs(100, None)) == [text]


def test_long_paragraphs_are_cut_at_the_maximum():
    assert by_bytes("a" * 10, Paragraphs(1, 4)) == ["aaaa", "aaaa", "aa"]
    assert by_bytes("aa\n\n" + "b" * 9, Paragraphs(3, 5)) == ["aa\n\n", "bbbbb", "bbbb"]
    assert by_bytes("a\n\n" + "b" * 8 + "\n\nc", Paragraphs(4, 6)) == ["a\n\nbbb", "bbbbb\n", "\nc"]


@given(st.lists(st.sampled_from(["a", "bb", "\n", "\n\n", "é"]), max_size=80), st.integers(1, 6), st.integers(0, 9))
@settings(deadline=None, max_examples=150)
def test_paragraph_lengths_stay_between_the_limits(pieces, least, more):
    ids = BYTES("".join(pieces))["input_ids"]
    lengths = [len(part) for part in split(ids, Paragraphs(least, least + more)(ids, BYTES))]
    assert all(length <= least + more for length in lengths)
    assert all(length >= least for length in lengths[:-1])
    if len(lengths) > 1 and lengths[-1] < least:
        assert lengths[-1] + lengths[-2] > least + more


def test_blocks():
    assert Blocks(3)(list(range(7))) == [3, 6, 7]
    assert Blocks(3)(list(range(6))) == [3, 6]
    assert Blocks(3)([1]) == [1]
    assert Blocks(3)([]) == []


# --- any segmenter -------------------------------------------------------------------------------------------------

ANY = [
    Cues(),
    Cues(["en", "zh"], min_paragraphs=0, group_size=2, case_sensitive=False),
    Cues(max_episodes=2, min_paragraphs=1),
    Paragraphs(1, 3),
    Paragraphs(4, None),
    Blocks(5),
    make_segmenter(lambda ids, tokenizer: list(range(1, len(ids) + 1))),
]
TOKENS = byte_level(["\n\n", ".\n\n", "\n\nWait", "Wait", "Alternatively", "等等", "\n"])


@given(st.lists(st.one_of(st.integers(250, len(TOKENS) + 2), st.integers(-3, 2**33)), max_size=120))
@settings(deadline=None, max_examples=150)
def test_segment_then_join_returns_the_ids(ids):
    for segmenter in ANY:
        ends = segmenter(ids, TOKENS)
        assert join(split(ids, ends)) == ids
        assert ends == sorted(set(ends))
        assert (ends[-1:] == [len(ids)]) if ids else (ends == [])


def test_linear_in_a_long_thought_with_a_large_vocabulary():
    tokenizer = byte_level([f"w{n}" for n in range(150_000)] + ["\n\n", "Wait"])
    blank, wait, newline = (tokenizer.convert_tokens_to_ids(token) for token in ("ĊĊ", "Wait", "Ċ"))
    ids = [500 + (n * 7919) % 140_000 for n in range(30_000)]
    ids[::40], ids[1::40] = [blank] * 750, [wait] * 750
    for thought in (ids, [newline] * 30_000, [wait, blank] * 15_000):
        for segmenter in (Cues(), Paragraphs()):
            started = time.perf_counter()
            ends = segmenter(thought, tokenizer)
            assert time.perf_counter() - started < 1.0
            assert ends[-1] == 30_000
    assert Cues()(ids, tokenizer) == [*range(121, 30_000, 120), 30_000]  # every third of 750 paragraphs


def test_names_and_options():
    assert make_segmenter("cues", language="de", group_size=3) == Cues("de", group_size=3)
    assert make_segmenter("paragraphs", min_tokens=2) == Paragraphs(2)
    assert make_segmenter("blocks", size=7) == Blocks(7)
    assert make_segmenter(Blocks(7)) == Blocks(7)
    assert set(SEGMENTERS) == {"cues", "paragraphs", "blocks"}


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: make_segmenter("cue"), "did you mean 'cues'"),
        (lambda: make_segmenter("cues", groupsize=2), "did you mean 'group_size'"),
        (lambda: make_segmenter("cues", _openers=("x",)), "no option '_openers'"),
        (lambda: Cues("eng"), "did you mean 'en'"),
        (lambda: Cues(None), "name a `language` or give `cues`"),
        (lambda: Cues(cues=["  "]), "no empty one"),
        (lambda: Cues(min_paragraphs=-1), "min_paragraphs must be a whole number of at least 0"),
        (lambda: Cues(group_size=0), "group_size"),
        (lambda: Cues(max_episodes=0), "max_episodes"),
        (lambda: Paragraphs(0), "min_tokens"),
        (lambda: Paragraphs(10, 9), "max_tokens must be a whole number of at least 10"),
        (lambda: Blocks(2.5), "size must be a whole number"),
    ],
)
def test_mistakes_name_the_cure(make, cure):
    with pytest.raises(ConfigError, match=cure):
        make()


def test_your_own_function():
    halves = make_segmenter(lambda ids, tokenizer, at: [at, len(ids)], at=2)
    assert isinstance(halves, Custom)
    assert halves([5, 6, 7], BYTES) == [2, 3]
    for wrong in ([], [1, 2], [0, 3], [2, 2, 3], [3, 2], [1, 3, 4], [-1, 3]):
        with pytest.raises(ConfigError, match="3 tokens: they must increase strictly"):
            make_segmenter(lambda ids, tokenizer, wrong=wrong: wrong)([5, 6, 7], BYTES)


def test_split_refuses_ends_that_do_not_fit():
    assert split([1, 2, 3], [1, 3]) == [[1], [2, 3]]
    assert split([], []) == []
    with pytest.raises(ConfigError, match="finish with 3"):
        split([1, 2, 3], [1, 2])
