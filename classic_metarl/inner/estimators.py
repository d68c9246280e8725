"""Surrogates of the policy gradient, each of which some derivative tells apart from the others.

The inner step of gradient-based meta-RL is itself an expectation under theta: its derivative has terms that a plain
surrogate drops. All functions take log-probabilities (B, T) of the recorded actions under the current policy, with
gradients, and return one number a row (B,), to be averaged and *maximised*. Steps outside `mask` count for nothing. A
row is an episode.

| surrogate | gradient | Hessian, in expectation |
|---|---|---|
| naive | unbiased | H2 only |
| dice, loaded_dice | unbiased | H1 + H2 + H12 + H12': unbiased |
| lvc | unbiased | H1 + H2: biased, of low variance |

H1 = E[score score' R], H2 = E[grad score R], H12 = E[score (grad R)'] (Rothfuss et al. 2019, 1810.06784, section 4).
"""

from __future__ import annotations

from torch import Tensor

from mrt.credit.grouping import group_mean, rank
from mrt.trials import Trials


def naive(logprobs: Tensor, weights: Tensor, trials: Trials) -> Tensor:
    """(B,) sum_t log pi(a_t) A_t: REINFORCE's surrogate; `weights` (B, T) are the A_t."""
    return (_inside(logprobs, trials) * weights).sum(1)


def dice(logprobs: Tensor, trials: Trials, gamma: float = 1.0) -> Tensor:
    """(B,) sum_t gamma^t box_t r_t with box_t = exp(sum over t' <= t of log pi - sg(log pi)): the infinitely
    differentiable Monte Carlo estimator (Foerster et al. 2018, 1802.05098, equation 7). All derivatives are unbiased.
    """
    discount = gamma ** (trials.mask.long().cumsum(1) - 1).clamp(min=0).to(trials.rewards.dtype)
    return (_box(_inside(logprobs, trials).cumsum(1)) * discount * trials.rewards * trials.mask).sum(1)


def loaded_dice(logprobs: Tensor, weights: Tensor, trials: Trials) -> Tensor:
    """(B,) sum_t (box_t - box_(t-1)) A_t: DiCE with advantages (Farquhar et al. 2019, 1909.10549, equation 13).

    With `weights` the rewards-to-go it is `dice` less a constant; a baseline in them lowers the variance of every
    derivative.
    """
    total = _inside(logprobs, trials).cumsum(1)
    before = total - _inside(logprobs, trials)
    return ((_box(total) - _box(before)) * weights * trials.mask).sum(1)


def lvc(logprobs: Tensor, weights: Tensor, trials: Trials) -> Tensor:
    """(B,) sum_t pi / sg(pi) A_t: the low variance curvature estimator (Rothfuss et al. 2019, equation 8)."""
    inside = _inside(logprobs, trials)
    return (_box(inside) * weights * trials.mask).sum(1)


def likelihood_ratio(logprobs: Tensor, weights: Tensor, trials: Trials) -> Tensor:
    """(B,) sum_t pi / pi_old A_t, pi_old the policy that acted (`trials.logprobs`): J^LR of ProMP's inner step.

    Raises:
        ValueError: when the trials carry no log-probabilities.
    """
    return (_ratio(logprobs, trials) * weights * trials.mask).sum(1)


def clipped(logprobs: Tensor, weights: Tensor, trials: Trials, clip: float = 0.3) -> Tensor:
    """(B,) sum_t min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A): ProMP's outer objective J^CLIP (Rothfuss et al.
    2019, equation 11; PPO's, 1707.06347, equation 7). `trials` are those of the adapted policy.
    """
    ratio = _ratio(logprobs, trials)
    least = (ratio * weights).minimum(ratio.clamp(1 - clip, 1 + clip) * weights)
    return (least * trials.mask).sum(1)


def behaviour_kl(logprobs: Tensor, trials: Trials) -> Tensor:
    """(B,) mean over the acting steps of log pi_old - log pi + ratio - 1: KL(pi_old || pi) estimated without bias by
    terms that are never negative (Schulman 2020, "Approximating KL divergence", k3). ProMP's penalty on the inner step.
    """
    excess = _inside(logprobs, trials) - _old(trials)
    terms = (excess.exp() - 1 - excess) * trials.mask
    return terms.sum(1) / trials.mask.sum(1).clamp(min=1)


def sampling_term(logprobs: Tensor, trials: Trials, outer: Tensor, baseline: bool = False) -> Tensor:
    """(B,) sum_t log pi_theta(a_t) times what the adapted policy earned on the row's task: what E-MAML adds to MAML.

        grad E_tau E_tau'[R(tau')] = MAML's term + E[R(tau') grad sum_k log pi_theta(tau_k)]

    Stadie et al. 2018, 1803.01118, equation 4: theta is also answerable for the episodes that adaptation saw. The rows
    are all pre-update episodes; sum the result over a task's rows, average over tasks.

    Args:
        outer: (G,) mean post-update return of every task, in the order of `mrt.credit.grouping.rank(trials.group)`; no
            gradient passes through it.
        baseline: subtracts the mean over the tasks (the authors' code does with advantages).
    """
    earned = outer.detach()
    earned = earned - earned.mean() if baseline else earned
    return _inside(logprobs, trials).sum(1) * earned[rank(trials.group)]


def importance(logprobs: Tensor, trials: Trials, most: float | None = None) -> Tensor:
    """(B,) prod_t pi_theta / pi_behaviour of each episode, without gradient: the weights of Al-Shedivat et al. 2018,
    1710.03641, equation 9, when a task is adapted to with the episodes of an earlier policy.

    `most` truncates them; `effective_sample_size` is the number of episodes that still count.
    """
    total = (_inside(logprobs, trials) - _old(trials)).sum(1).detach()
    weight = total.exp()
    return weight if most is None else weight.clamp(max=most)


def effective_sample_size(weights: Tensor, group: Tensor) -> Tensor:
    """(G,) (sum w)^2 / sum w^2 of importance weights (B,) within each group."""
    ranks = rank(group)
    mean, square = group_mean(weights, ranks), group_mean(weights.square(), ranks)
    count = ranks.bincount(minlength=len(mean))
    return count * mean.square() / square


def _inside(logprobs: Tensor, trials: Trials) -> Tensor:
    return logprobs.where(trials.mask, logprobs.new_zeros(()))


def _old(trials: Trials) -> Tensor:
    if trials.logprobs is None:
        raise ValueError("a likelihood ratio needs the log-probabilities that the trials were sampled with")
    return _inside(trials.logprobs.detach(), trials)


def _ratio(logprobs: Tensor, trials: Trials) -> Tensor:
    return (_inside(logprobs, trials) - _old(trials)).exp()


def _box(total: Tensor) -> Tensor:
    """exp(x - sg(x)): 1 in value, and every derivative of exp at 0."""
    return (total - total.detach()).exp()
