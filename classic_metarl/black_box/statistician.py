"""The neural statistician: what a set of images has in common, learned without labels.

    log p(D) >= E_q(c|D) [ sum_(x in D) E_q(z|x,c) log p(x|z, c) - KL(q(z|x,c) || p(z|c)) ] - KL(q(c|D) || N(0, I))

c is the context of a whole set, q(c|D) reads the mean of its images' features. A query gets the label of the class
whose context is closest to its own: the smallest KL(q(c|D_k) || q(c|x)). Edwards & Storkey 2017, "Towards a neural
statistician", 1606.02185, sections 3 and 4.

Deviations: one layer of z; ink in [0, 1] as a Bernoulli likelihood; training sets are all images of a class in a task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from classic_metarl.inner.task_networks import embed
from classic_metarl.trainers.few_shot import EpisodicLearner, FewShotTrainer, Set

CONTEXT, LATENT, WIDTH = 32, 16, 128


class Statistician(EpisodicLearner):
    """Statistic network, inference network, priors and decoder."""

    def __init__(self, family: Any, args: Any) -> None:
        super().__init__(family)
        self.net = family.embedding(args.hidden, args.activation)
        pixels = math.prod(family.bank[0].shape[1:])
        features = self.net.features
        self.context = nn.Sequential(nn.Linear(features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * CONTEXT))
        self.infer = nn.Sequential(nn.Linear(features + CONTEXT, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * LATENT))
        self.prior = nn.Sequential(nn.Linear(CONTEXT, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * LATENT))
        self.decode = nn.Sequential(nn.Linear(CONTEXT + LATENT, WIDTH), nn.ReLU(), nn.Linear(WIDTH, pixels))

    def contexts(self, features: Tensor, member: Tensor) -> Independent:
        """q(c|D), a batch (M, k), of k sets: features (M, n, F), which image is in which set (M, k, n), 0 or 1."""
        mean = member @ features / member.sum(-1, keepdim=True)
        return _gaussian(self.context(mean))

    def answer(self, support: Set, x: Tensor) -> Tensor:
        known = self.contexts(embed(self.net, support[0]), self._members(support[1]))
        features = embed(self.net, x)
        alone = self.contexts(features, torch.eye(x.shape[1], device=x.device).expand(len(x), -1, -1))
        one, other = ((part.base_dist.loc, part.base_dist.scale) for part in (known, alone))
        ours = Independent(Normal(one[0][:, None], one[1][:, None]), 1)
        theirs = Independent(Normal(other[0][:, :, None], other[1][:, :, None]), 1)
        return -kl_divergence(ours, theirs)

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        """(M, T) minus the bound, shared out among the images of all sets."""
        x, labels = (torch.cat([stages[0][part], query[part]], 1) for part in (0, 1))
        features, member = embed(self.net, x), self._members(labels)
        posterior = self.contexts(features, member)
        context = posterior.rsample()  # (M, ways, C)
        own = member.mT @ context  # (M, T, C): that of each image's set
        inferred = _gaussian(self.infer(torch.cat([features, own], -1)))
        drawn = inferred.rsample()
        said = self.decode(torch.cat([own, drawn], -1))
        missed = F.binary_cross_entropy_with_logits(said, x.flatten(2), reduction="none").sum(-1)
        known = kl_divergence(inferred, _gaussian(self.prior(own)))
        start = Independent(Normal(torch.zeros_like(context), 1.0), 1)
        shared = kl_divergence(posterior, start) / member.sum(-1)  # of a set, an image
        return missed + known + (member.mT @ shared[..., None])[..., 0]

    def _members(self, labels: Tensor) -> Tensor:
        ways = self.family.ways  # type: ignore[attr-defined]
        return (labels[:, None] == torch.arange(ways, device=labels.device)[:, None]).float()


def _gaussian(said: Tensor) -> Independent:
    mean, log_std = said.chunk(2, -1)
    return Independent(Normal(mean, log_std.clamp(-5, 3).exp()), 1)


class StatisticianTrainer(FewShotTrainer):
    """The neural statistician on image episodes."""

    @classmethod
    def build(cls, family: Any, args: Any) -> Statistician:
        return Statistician(family, args)
