"""Reasoning Gym's generators as problem sets. What needs the package skips without it; a stand-in shows the rest."""

import sys
from types import SimpleNamespace

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.grading.verdict import Grade, Verdict
from mrt.reasoning.problems import load_problems, to_dataset, validate
from mrt.reasoning.problems.reward import ProblemReward

TWENTY = [
    "chain_sum",
    "basic_arithmetic",
    "gcd",
    "lcm",
    "prime_factorization",
    "products",
    "power_function",
    "count_primes",
    "number_sorting",
    "spell_backward",
    "letter_counting",
    "word_sorting",
    "binary_matrix",
    "caesar_cipher",
    "leg_counting",
    "fraction_simplification",
    "calendar_arithmetic",
    "knights_knaves",
    "propositional_logic",
    "countdown",
]


class Doubled:
    """i: twice i. Half of the reward for an answer that is one off; words break the verifier."""

    def __init__(self, seed, size, gold=True):
        self.seed, self.size, self.gold = seed, size, gold

    def __getitem__(self, index):
        number = (self.seed + index) % 97
        return {
            "question": f"Twice {number}?",
            "answer": str(2 * number) if self.gold else None,
            "metadata": {"n": number},
        }

    def score_answer(self, answer, entry):
        off = abs(int(answer) - 2 * entry["metadata"]["n"])
        return {0: 1.0, 1: 0.5}.get(off, 0.0)


@pytest.fixture
def stand_in(monkeypatch):
    """A package with one generator, in the place of reasoning_gym."""

    def create(name, seed, size, **options):
        if set(options) - {"gold"}:
            raise TypeError(f"unexpected {sorted(options)}")
        return Doubled(seed, size, **options)

    factory = SimpleNamespace(DATASETS={"doubled": None, "halved": None})
    monkeypatch.setitem(sys.modules, "reasoning_gym", SimpleNamespace(create_dataset=create, factory=factory))
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)


def test_splits_are_disjoint_and_partial_scores_are_kept(stand_in):
    gym = load_problems("reasoning_gym", dataset="doubled", train=40, test=5)
    train, test = gym.problems("train"), gym.problems("test")
    assert (len(train), len(test), gym.problems("warmstart")) == (40, 5, [])
    assert not {one.key for one in train} & {one.key for one in test}
    assert validate(gym, "train") == 40
    one = train[0]
    number = int(one.solution)
    near = gym.grade_answer(one, str(number + 1))
    assert (near.verdict, near.reward) == (Verdict.WRONG, 0.5)
    assert gym.grade_answer(one, str(number)).verdict is Verdict.CORRECT
    assert gym.grade_answer(one, "seven").verdict is Verdict.UNPARSED
    assert gym.grade_answer(one, "1" * 3000).verdict is Verdict.UNPARSED
    rows = to_dataset(gym, "train", limit=1)
    columns = {name: rows[name] for name in ("key", "solution", "data")}
    texts = [f"<think></think>\\boxed{{{number - 1}}}"]
    assert ProblemReward(gym)(rows["prompt"], texts, **columns) == [0.5]
    again = load_problems("reasoning_gym", dataset="doubled", train=40, test=5)
    assert again.problems("train") == train
    other = load_problems("reasoning_gym", dataset="doubled", train=40, test=5, seed=1)
    assert {one.key for one in other.problems("test")} <= {one.key for one in test} | {
        one.key for one in load_problems("reasoning_gym", dataset="doubled", train=0, test=8).problems("test")
    }  # a question's split does not depend on the seed
    assert Grade(Verdict.WRONG, score=0.25).reward == 0.25
    assert Grade(Verdict.TIMEOUT, score=0.25).reward is None


def test_errors_name_the_cure(stand_in):
    with pytest.raises(ConfigError, match=r"no generator 'dubled'.*doubled"):
        load_problems("reasoning_gym", dataset="dubled")
    with pytest.raises(ConfigError, match="refuses the options"):
        load_problems("reasoning_gym", dataset="doubled", options={"size_of": 3})
    with pytest.raises(ConfigError, match="different questions for 'train'"):
        load_problems("reasoning_gym", dataset="doubled", train=500, test=0)
    with pytest.raises(DataError, match="its own verifier"):
        load_problems("reasoning_gym", dataset="doubled", train=40, test=0, options={"gold": False})
    with pytest.raises(ConfigError, match="needs dataset"):
        load_problems("reasoning_gym")


def test_without_the_package_one_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"mrt-rl\[gym\]"):
        load_problems("reasoning_gym", dataset="chain_sum")


@pytest.mark.parametrize("dataset", TWENTY)
def test_a_generator_of_the_package(dataset):
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install 'mrt-rl[gym]'")
    gym = load_problems("reasoning_gym", dataset=dataset, train=6, test=2)
    assert validate(gym, "train") == 6
    assert validate(gym, "test") == 2
    for one in gym.problems("train"):
        for answer in ("", "7", "\\frac{1}{2}", "no idea", "{"):  # no crash, and no wrong answer with a full reward
            assert 0 <= (gym.grade_answer(one, answer).reward or 0) < 1 or answer == one.solution
