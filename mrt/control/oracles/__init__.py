"""What can be reached: exact Bayes-optimal values, classical baselines, the known-task optimum and random play.

`bandits`: exact values by dynamic programming. `bandit_policies` and `mdps`: scripted agents that play
the environments. `beliefs`: exact posteriors over tasks, and agents that act on them.
`bounds`: floor and ceiling of every task. `grids`, `hallway`, `buses`, `navigation`: the same for places,
`drifting` for worlds that change, `courses` for poles and hurdles, `causal` for graphs.
"""

from mrt.control.oracles.base import mean_and_se as mean_and_se
from mrt.control.oracles.bounds import Bounds as Bounds
from mrt.control.oracles.bounds import episode_bounds as episode_bounds
from mrt.control.oracles.bounds import floor_and_ceiling as floor_and_ceiling
from mrt.control.oracles.bounds import task_bounds as task_bounds

# Imported for their entries in `floor_and_ceiling`.
from mrt.control.oracles import courses as courses  # isort: skip
from mrt.control.oracles import causal as causal  # isort: skip
from mrt.control.oracles import drifting as drifting  # isort: skip
from mrt.control.oracles import grids as grids  # isort: skip
from mrt.control.oracles import navigation as navigation  # isort: skip
