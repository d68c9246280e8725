"""Every credit by hand and by brute force."""

import itertools
import math

import pytest
import torch

from mrt.credit.brpo import brpo
from mrt.credit.outcome import leave_one_out, outcome
from mrt.credit.progress import progress
from mrt.credit.returns import gae, reward_to_go
from mrt.credit.table import CREDITS, make_credit
from mrt.credit.vineppo import vineppo
from mrt.errors import ConfigError
from mrt.trials import PROVERS, Stop, Trials

NAN = float("nan")


def reasoning(rewards, episodes, stop_values=None, group=None, prover="forced", **changed) -> Trials:
    """Rows with one prompt step (mask False), two steps an episode and one answer step outside any episode."""
    rows, longest = len(rewards), max(episodes)
    steps = 1 + 2 * longest + 1
    episode = torch.full((rows, steps), -1)
    mask = torch.zeros(rows, steps, dtype=torch.bool)
    reward = torch.zeros(rows, steps)
    for b, count in enumerate(episodes):
        episode[b, 1 : 1 + 2 * count] = torch.arange(count).repeat_interleave(2)
        mask[b, 1 : 2 + 2 * count] = True
        reward[b, 1 + 2 * count] = rewards[b]
    values = None if stop_values is None else torch.tensor([v + [NAN] * (longest + 1 - len(v)) for v in stop_values])
    return Trials(
        actions=torch.zeros(rows, steps, dtype=torch.long),
        rewards=reward,
        mask=mask,
        episode=episode,
        group=torch.zeros(rows, dtype=torch.long) if group is None else torch.tensor(group),
        stop_values=values,
        prover=torch.full((rows,), PROVERS[prover], dtype=torch.int8),
        **changed,
    )


def per_row(weights, trials):
    """The one weight that all chosen steps of each row share."""
    for b in range(len(trials)):
        assert len(weights[b][trials.mask[b]].unique()) == 1
    return [float(weights[b][trials.mask[b]][0]) for b in range(len(trials))]


def test_outcome_by_hand():
    trials = reasoning([1.0, 0.0, 0.0, 1.0, 1.0, 1.0], [1] * 6, group=[0, 0, 0, 5, 5, 5])
    deviation = math.sqrt((2 / 3) ** 2 / 2 + 2 * (1 / 3) ** 2 / 2)
    expected = [2 / 3 / (deviation + 1e-4), -1 / 3 / (deviation + 1e-4), -1 / 3 / (deviation + 1e-4), 0, 0, 0]
    assert per_row(outcome(trials), trials) == pytest.approx(expected, abs=1e-6)
    assert per_row(outcome(trials, scale="none"), trials) == pytest.approx([2 / 3, -1 / 3, -1 / 3, 0, 0, 0], abs=1e-6)
    spread = float(torch.tensor([1.0, 0, 0, 1, 1, 1]).std())
    assert per_row(outcome(trials, scale="batch"), trials)[0] == pytest.approx(2 / 3 / (spread + 1e-4), abs=1e-6)


def test_outcome_is_zero_outside_the_mask_and_ignores_the_order_of_groups():
    trials = reasoning([1.0, 0.0, 0.0, 1.0], [2, 1, 1, 2], group=[9, 4, 9, 4])
    weights = outcome(trials)
    assert (weights[~trials.mask] == 0).all()
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(outcome(trials.rows(order)), weights[order], atol=1e-6)


def test_unscorable_rows_leave_the_statistics():
    scored = torch.tensor([True, True, False])
    trials = reasoning([1.0, 0.0, 1.0], [1, 1, 1], scored=scored)
    alone = reasoning([1.0, 0.0], [1, 1])
    assert per_row(outcome(trials), trials) == pytest.approx([*per_row(outcome(alone), alone), 0.0])
    assert per_row(leave_one_out(trials), trials) == pytest.approx([1.0, -1.0, 0.0])


def test_leave_one_out_by_brute_force():
    rewards = [0.3, 1.0, 0.0, 0.6]
    trials = reasoning(rewards, [1] * 4)
    expected = [r - (sum(rewards) - r) / 3 for r in rewards]
    assert per_row(leave_one_out(trials), trials) == pytest.approx(expected, abs=1e-6)
    alone = reasoning([1.0, 0.0], [1, 1], group=[0, 1])
    assert per_row(leave_one_out(alone), alone) == [0.0, 0.0]


def control(rewards, values, episode, mask, stop, trial_stop=Stop.TERMINATED) -> Trials:
    return Trials(
        actions=torch.zeros(1, len(rewards), dtype=torch.long),
        rewards=torch.tensor([rewards]),
        values=torch.tensor([values]),
        mask=torch.tensor([mask], dtype=torch.bool),
        episode=torch.tensor([episode]),
        group=torch.zeros(1, dtype=torch.long),
        stop=torch.tensor([stop], dtype=torch.int8),
        trial_stop=torch.tensor([int(trial_stop)], dtype=torch.int8),
    )


# Two episodes of two acts, each with its closing row.
TWO = {
    "rewards": [1.0, 2.0, 0.0, 3.0, 4.0, 0.0],
    "values": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "episode": [0, 0, 0, 1, 1, 1],
    "mask": [1, 1, 0, 1, 1, 0],
}


def test_reward_to_go_per_episode_and_across_the_trial():
    trials = control(**TWO, stop=[0, 0])
    assert reward_to_go(trials, scope="episode")[0].tolist() == [3, 2, 0, 7, 4, 0]
    assert reward_to_go(trials, scope="trial")[0].tolist() == [10, 9, 0, 7, 4, 0]
    assert reward_to_go(trials, scope="trial", gamma=0.5)[0].tolist() == [1 + 1 + 0.75 + 0.5, 2 + 1.5 + 1, 0, 5, 4, 0]


def test_gae_tells_terminated_from_truncated():
    gamma, lam = 0.9, 0.8
    ended = gae(control(**TWO, stop=[Stop.TERMINATED, Stop.TERMINATED]), gamma, lam, "episode")[0]
    cut = gae(control(**TWO, stop=[Stop.TRUNCATED, Stop.TERMINATED]), gamma, lam, "episode")[0]
    second = 2.0 - 0.6
    assert ended[1] == pytest.approx(second)
    assert ended[0] == pytest.approx(1 + gamma * 0.6 - 0.5 + gamma * lam * second)
    second = 2.0 + gamma * 0.7 - 0.6  # bootstraps from the closing row
    assert cut[1] == pytest.approx(second)
    assert cut[0] == pytest.approx(1 + gamma * 0.6 - 0.5 + gamma * lam * second)
    assert torch.equal(ended[3:], cut[3:])
    assert ended[2] == ended[5] == 0


def test_gae_across_the_trial_runs_through_the_end_of_an_episode():
    gamma, lam = 0.9, 0.8
    fourth = 4.0 - 0.9
    third = 3 + gamma * 0.9 - 0.8 + gamma * lam * fourth
    second = 2 + gamma * 0.8 - 0.6 + gamma * lam * third
    first = 1 + gamma * 0.6 - 0.5 + gamma * lam * second
    for stop in ([0, 0], [1, 0], [1, 1]):  # how an episode ended inside the trial does not matter here
        weights = gae(control(**TWO, stop=stop), gamma, lam, "trial")[0]
        assert weights[[0, 1, 3, 4]].tolist() == pytest.approx([first, second, third, fourth])
    cut = gae(control(**TWO, stop=[0, 0], trial_stop=Stop.TRUNCATED), gamma, lam, "trial")[0]
    assert cut[4] == pytest.approx(4 + gamma * 1.0 - 0.9)


def test_gae_with_lambda_one_and_no_values_is_reward_to_go():
    flat = {**TWO, "values": [0.0] * 6}
    trials = control(**flat, stop=[0, 0])
    assert torch.allclose(gae(trials, 0.7, 1.0, "trial"), reward_to_go(trials, "trial", 0.7))
    assert torch.allclose(gae(trials, 0.7, 1.0, "episode"), reward_to_go(trials, "episode", 0.7))


def test_gae_needs_values_and_closing_rows():
    with pytest.raises(ValueError, match="values"):
        gae(control(**{**TWO, "values": [NAN] * 6}, stop=[0, 0]))
    no_closing = control([1.0, 1.0], [0.5, 0.5], [0, 0], [1, 1], stop=[Stop.TRUNCATED])
    with pytest.raises(ValueError, match="closing row"):
        gae(no_closing, scope="episode")


VALUES = [[0.1, 0.4, 0.2, 0.9], [0.1, 0.3]]


def test_progress_by_hand():
    trials = reasoning([1.0, 0.0], [3, 1], VALUES)
    base = outcome(trials)
    immediate = progress(trials, alpha=2.0) - base
    assert immediate[0, 1:7].tolist() == pytest.approx([0.6, 0.6, -0.4, -0.4, 1.4, 1.4], abs=1e-6)
    assert immediate[1, 1:3].tolist() == pytest.approx([0.4, 0.4], abs=1e-6)
    assert immediate[0, 7] == 0  # the answer's step gets the outcome alone
    assert immediate[0, 0] == 0  # the prompt gets nothing
    togo = progress(trials, alpha=1.0, mode="to-go") - base
    assert togo[0, 1:7:2].tolist() == pytest.approx([0.8, 0.5, 0.7], abs=1e-6)
    discounted = progress(trials, alpha=1.0, mode="discounted", gamma=0.5) - base
    assert discounted[0, 1:7:2].tolist() == pytest.approx([0.3 - 0.1 + 0.7 / 4, -0.2 + 0.35, 0.7], abs=1e-6)
    trace = progress(trials, alpha=1.0, mode="trace") - base
    assert trace[0, 1:7:2].tolist() == pytest.approx([0.8] * 3, abs=1e-6)


def test_progress_centred_by_depth():
    trials = reasoning([1.0, 0.0], [3, 1], VALUES)
    bonus = progress(trials, alpha=1.0, center="depth") - outcome(trials)
    assert bonus[0, 1:7:2].tolist() == pytest.approx([0.3 - 0.25, 0.0, 0.0], abs=1e-6)
    assert float(bonus[1, 1]) == pytest.approx(0.2 - 0.25, abs=1e-6)


def test_progress_telescopes():
    torch.manual_seed(0)
    values = torch.rand(6, 5, dtype=torch.float64).tolist()
    trials = reasoning([1.0] * 6, [4] * 6, values)
    togo = progress(trials, mode="to-go", scale="none")[:, 1:9:2]
    kept = torch.tensor(values)
    assert torch.allclose(togo, (kept[:, -1:] - kept[:, :-1]).float(), atol=1e-6)


def test_alpha_zero_is_the_outcome_bit_for_bit_and_needs_no_stop_values():
    trials = reasoning([1.0, 0.0, 0.5], [2, 1, 3])
    for scale, mode in itertools.product(("group", "batch", "none"), ("immediate", "to-go", "discounted")):
        assert torch.equal(progress(trials, alpha=0, mode=mode, scale=scale), outcome(trials, scale=scale))


def test_unmeasured_progress_is_zero_or_spread():
    trials = reasoning([1.0], [4], [[0.2, NAN, 0.6, NAN, NAN]])
    zero = progress(trials, scale="none")[0, 1:9:2]
    assert zero.tolist() == [0, 0, 0, 0]
    spread = progress(trials, scale="none", unmeasured="spread")[0, 1:9:2]
    assert spread.tolist() == pytest.approx([0.2, 0.2, 0, 0], abs=1e-6)


def brute_brpo(values, lengths, prior):
    """The formula of the docstring with loops; values J_1..J_S per row."""
    size = max(lengths)
    filled = [row + [row[-1]] * (size - len(row)) for row in values]
    raw = [1.0] * size if prior == "uniform" else [t + 1.0 for t in range(size)]
    weight = [w / sum(raw) for w in raw]
    gain = [[sum(weight[t] * row[t] for t in range(s, size)) for s in range(size)] for row in filled]
    out = []
    for row, own in zip(filled, gain, strict=True):
        line = []
        for s in range(size):
            first = 0.0
            if s:
                first = sum(2**t * row[t] for t in range(s)) / sum(2**t for t in range(s)) * sum(weight[s:])
            second = sum(g[s] for g in gain) / len(gain)
            line.append(own[s] - (s * first + (size - s) * second) / size)
        out.append(line)
    return out


@pytest.mark.parametrize("prior", ["uniform", "linear"])
def test_brpo_by_brute_force(prior):
    values = [[0.1, 0.5, 0.7], [0.3], [0.0, 1.0]]
    trials = reasoning([1.0, 0.0, 1.0], [3, 1, 2], [[0.2, *row] for row in values])
    weights = brpo(trials, prior=prior)
    expected = brute_brpo(values, [3, 1, 2], prior)
    for b, count in enumerate([3, 1, 2]):
        assert weights[b, 1 : 1 + 2 * count : 2].tolist() == pytest.approx(expected[b][:count], abs=1e-6)
    assert float(weights[1, 3]) == pytest.approx(-2 / 3, abs=1e-6)  # the answer's step: R minus the group mean


def test_vineppo_by_hand():
    trials = reasoning([1.0, 0.0], [2, 2], [[0.2, 0.5, 0.6], [0.2, 0.1, NAN]], prover="continue")
    weights = vineppo(trials)
    assert weights[0, 1:6].tolist() == pytest.approx([0.3, 0.3, 0.1, 0.1, 0.4], abs=1e-6)
    assert weights[1, 1:6].tolist() == pytest.approx([-0.1, -0.1, -0.1, -0.1, -0.1], abs=1e-6)


def test_a_credit_refuses_stop_values_of_the_wrong_prover():
    trials = reasoning([1.0, 0.0], [1, 1], [[0.1, 0.2]] * 2, prover="continue")
    with pytest.raises(ValueError, match="forced"):
        make_credit("progress", alpha=1.0)(trials)
    make_credit("vineppo")(trials)
    make_credit("progress", alpha=0.0)(trials)  # does not look at J


def test_annealed_alpha():
    trials = reasoning([1.0, 0.0], [1, 1], [[0.1, 0.2]] * 2)
    credit = make_credit("progress", alpha=2.0, alpha_end=0.0)
    assert [credit.alpha(f) for f in (0, 0.25, 1, 7)] == [2.0, 1.5, 0.0, 0.0]
    assert torch.equal(credit(trials, 1.0), outcome(trials))
    assert torch.allclose(credit(trials, 0.5), progress(trials, alpha=1.0))


def test_names_and_options_are_checked():
    with pytest.raises(ConfigError, match="did you mean 'progress'"):
        make_credit("progres")
    with pytest.raises(ConfigError, match="did you mean 'alpha'"):
        make_credit("progress", alhpa=1)
    with pytest.raises(ConfigError, match="anneal"):
        make_credit("outcome", alpha_end=0.0)
    for mode in ("mode", "center", "unmeasured"):
        with pytest.raises(ConfigError, match="unknown"):
            progress(reasoning([1.0], [1], [[0.0, 1.0]]), **{mode: "wrong"})
    with pytest.raises(ConfigError, match="scale"):
        outcome(reasoning([1.0], [1]), scale="wrong")


@pytest.mark.parametrize("name", sorted(CREDITS))
def test_every_credit_is_zero_outside_mask_and_in_unscorable_rows(name):
    torch.manual_seed(1)
    prover = CREDITS[name][1]
    trials = reasoning(
        [1.0, 0.0, 1.0],
        [2, 2, 2],
        torch.rand(3, 3).tolist(),
        prover=prover,
        values=torch.rand(3, 6),
        scored=torch.tensor([True, True, False]),
    )
    weights = make_credit(name)(trials)
    assert weights.shape == trials.rewards.shape
    assert weights.isfinite().all()
    assert (weights[~trials.mask] == 0).all()
    assert (weights[2] == 0).all()
    assert (weights[:2].abs() > 0).any()


@pytest.mark.parametrize("name", ["outcome", "leave_one_out"])
def test_a_credit_that_compares_rows_refuses_groups_of_one(name):
    """All weights would be zero, and a run would learn nothing without a word."""
    from mrt.credit.table import make_credit
    from mrt.errors import ConfigError

    def trials(groups):
        shape = (len(groups), 2)
        return Trials(
            actions=torch.zeros(shape, dtype=torch.long),
            rewards=torch.rand(shape),
            mask=torch.ones(shape, dtype=torch.bool),
            episode=torch.zeros(shape, dtype=torch.long),
            group=torch.tensor(groups),
        )

    with pytest.raises(ConfigError, match=r"every group has one row.*trials_per_task"):
        make_credit(name)(trials([0, 1, 2]))
    assert make_credit(name)(trials([0, 1, 1])).abs().sum() > 0
    assert make_credit("reward_to_go")(trials([0, 1, 2])).abs().sum() > 0


def test_progress_on_top_of_the_returns_of_single_trials() -> None:
    """Two trials of one row a group. GAE with lambda = gamma = 1 and values 0 is the return to go; center="batch" takes
    the mean progress of both trials, (0.1 + 0.5) / 2 and (0.7 - 0.3) / 2, off each.
    """
    trials = Trials(
        actions=torch.zeros(2, 4, dtype=torch.long),
        rewards=torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 3.0, 0.0]]),
        mask=torch.ones(2, 4, dtype=torch.bool),
        episode=torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]]),
        values=torch.zeros(2, 4),
        group=torch.tensor([0, 1]),
        stop_values=torch.tensor([[0.1, 0.2, 0.9], [0.1, 0.6, 0.3]]),
        prover=torch.ones(2, dtype=torch.int8),
    )
    how = {"base": "gae", "base_gamma": 1.0, "base_lam": 1.0}
    to_go = torch.tensor([[3.0, 3.0, 2.0, 2.0], [3.0, 3.0, 3.0, 0.0]])
    bonus = torch.tensor([[-0.2, -0.2, 0.5, 0.5], [0.2, 0.2, -0.5, -0.5]])
    assert torch.allclose(progress(trials, 2.0, center="batch", **how), to_go + 2 * bonus)
    assert torch.equal(progress(trials, 0.0, **how), to_go)
    assert torch.equal(progress(trials, 0.0), torch.zeros(2, 4))  # the outcome of a row that is alone in its group
    with pytest.raises(ConfigError, match="base 'gea' is unknown"):
        progress(trials, base="gea")
