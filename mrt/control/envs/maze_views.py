"""Pictures of a maze: the tiles around the agent from above, and what lies ahead of it.

A maze of size x size cells is drawn on 2 * size + 1 tiles a side: cell (x, y) is tile (2x + 1, 2y + 1), the tiles
between cells are open or walls. All mazes of a batch are drawn at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RADIUS = 2  # tiles seen to each side from above
SHADE = 0.6  # of a wall that runs along y, so that corners can be seen
AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))  # up, right, down, left


def walls(passages: Tensor, size: int) -> Tensor:
    """(B, tiles, tiles) bool, True where there is a wall, from the open directions of each cell (B, size * size)."""
    tiles = 2 * size + 1
    open_to = passages.view(-1, size, size)
    solid = torch.ones(len(passages), tiles, tiles, dtype=torch.bool, device=passages.device)
    solid[:, 1::2, 1::2] = False
    solid[:, 1::2, 2:-1:2] = (open_to[:, :, :-1] & 1) == 0
    solid[:, 2:-1:2, 1::2] = (open_to[:, :-1] & 2) == 0
    return solid


def top_down(solid: Tensor, cell: Tensor, goal: Tensor, size: int) -> Tensor:
    """(B, 2 * 5 * 5): walls, then the goal, on the tiles around the agent, north up; beyond the maze all is wall."""
    wide = torch.nn.functional.pad(solid, (RADIUS - 1,) * 4, value=True)
    reach = torch.arange(2 * RADIUS + 1, device=cell.device)
    # Padding moves tile 2x + 1 to 2x + RADIUS, and the window begins RADIUS before it.
    xs, ys = 2 * (cell // size)[:, None] + reach, 2 * (cell % size)[:, None] + reach
    rows = torch.arange(len(cell), device=cell.device)[:, None, None]
    seen = wide[rows, xs[:, :, None], ys[:, None, :]]
    at = (xs == 2 * (goal // size)[:, None] + RADIUS)[:, :, None] & (ys == 2 * (goal % size)[:, None] + RADIUS)[:, None]
    return torch.stack([seen, at], dim=1).flatten(1).float()


class Rays(NamedTuple):
    """What the rays of a picture cross, nearest first: (4 headings, columns, K) each."""

    tiles: Tensor  # int64, the tile entered: x * tiles a side + y, relative to the agent's
    depth: Tensor  # float64, in tiles along the heading
    side: Tensor  # bool, the border that is crossed runs along y


def cast(size: int, pixels: int) -> Rays:
    """One ray a column, 90 degrees in all, for a maze of size x size cells.

    From the middle of a tile a ray crosses its next borders after 1/2, 3/2, ... of the way from one to the next, in x
    and in y; sorted, they are the tiles that it enters. With an even number of columns no ray runs along an axis, or
    through a corner of four tiles.
    """
    shifts = (2 * torch.arange(pixels) + 1 - pixels).double() / pixels
    ahead = torch.tensor(AHEAD)[:, None].double()
    # Right of the heading (dx, dy) is (dy, -dx).
    along = torch.stack([ahead[..., 0] + shifts * ahead[..., 1], ahead[..., 1] - shifts * ahead[..., 0]], dim=2)
    halves = torch.arange(2 * size + 1) + 0.5
    crossings = (halves / along.abs()[..., None]).flatten(2)  # all in x, then all in y
    depth, order = crossings.sort(dim=2)
    side = order < len(halves)
    signs = along.sign().long()[..., None]
    steps = torch.where(side, signs[:, :, 0] * (2 * size + 1), signs[:, :, 1])
    return Rays(steps.cumsum(2), depth, side)


def first_person(solid: Tensor, cell: Tensor, goal: Tensor, heading: Tensor, *, size: int, rays: Rays) -> Tensor:
    """(B, 3 * pixels * pixels): what each ray meets first, a wall or the goal.

    A column is lit by 1 / (1 + depth), and its wall is pixels / depth high.
    """
    side_length = 2 * size + 1
    place, target = ((2 * (at // size) + 1) * side_length + 2 * (at % size) + 1 for at in (cell, goal))
    blocked = solid.flatten(1).scatter(1, target[:, None], True)
    # Beyond the border, which is solid, a number means nothing: the clamp only keeps it valid.
    tiles = (place[:, None, None] + rays.tiles[heading]).clamp(0, side_length**2 - 1)
    first = blocked.gather(1, tiles.flatten(1)).view_as(tiles).int().argmax(dim=2, keepdim=True)
    met, depth, edge = (part.gather(2, first)[..., 0] for part in (tiles, rays.depth[heading], rays.side[heading]))
    light = torch.where(edge, SHADE, 1.0) / (1 + depth)
    pixels = depth.shape[1]
    height = (torch.arange(pixels, device=cell.device) + 0.5 - pixels / 2).abs()
    bright = torch.where(height[:, None] < pixels / (2 * depth[:, None]), light[:, None], 0.0).float()
    others = torch.where((met == target[:, None])[:, None], 0.0, bright)
    return torch.stack([others, bright, others], dim=1).flatten(1)
