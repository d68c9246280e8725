"""An Omniglot-style set that is drawn here: characters of a few strokes, each drawn by many hands.

A character is 2 to 4 quadratic Bezier curves with control points in the unit square. A drawing jitters the control
points and turns, scales and shifts the whole; ink is a Gaussian around points along the curves. As with Omniglot
(Lake et al. 2015; Santoro et al. 2016, 1605.06065), each rotation by 90 degrees is another class.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.tasks import generator

DRAWINGS, POINTS, STROKES = 20, 20, 4
JITTER, TURN, SCALE, SHIFT = 0.035, 0.12, 0.08, 0.04


@lru_cache(maxsize=4)
def stroke_bank(characters: int, size: int, seed: int = 0) -> Tensor:
    """(characters, 20 drawings, 1, size, size) float ink in [0, 1]; character i depends on (seed, i) alone.

    Raises:
        ConfigError: for no characters, or images of fewer than 8 pixels a side.
    """
    if characters < 1 or size < 8:
        raise ConfigError(f"strokes: characters={characters} must be at least 1, size={size} at least 8")
    return torch.stack([_drawings(size, generator(seed, index)) for index in range(characters)])


def _drawings(size: int, source: torch.Generator) -> Tensor:
    """(20, 1, size, size) of one character."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source)

    strokes = int(torch.randint(2, STROKES + 1, (), generator=source))
    control = 0.12 + 0.76 * torch.rand(strokes, 3, 2, generator=source)
    drawn = control + JITTER * normal(DRAWINGS, strokes, 3, 2)
    angle, scale = TURN * normal(DRAWINGS), 1 + SCALE * normal(DRAWINGS)
    cosine, sine = (scale * angle.cos(), scale * angle.sin())
    turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
    drawn = torch.einsum("dij,dskj->dski", turn, drawn - 0.5) + 0.5 + SHIFT * normal(DRAWINGS, 1, 1, 2)
    t = torch.linspace(0, 1, POINTS)[:, None]
    basis = torch.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)[..., 0]  # (POINTS, 3)
    points = torch.einsum("pk,dski->dspi", basis, drawn).flatten(1, 2)  # (DRAWINGS, strokes * POINTS, 2)
    grid = (torch.arange(size) + 0.5) / size
    width = 0.6 / math.sqrt(size * 20)
    row, column = (torch.exp(-((points[..., i, None] - grid) ** 2) / (2 * width**2)) for i in (1, 0))
    return torch.einsum("dpy,dpx->dpyx", row, column).amax(1)[:, None]
