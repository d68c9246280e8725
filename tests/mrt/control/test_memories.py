"""Every memory: acting and learning agree, forks are independent, nothing looks ahead, nothing leaks between trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.black_box.windows import EncoderLayer
from mrt.control.memories import make_memory
from mrt.control.policy import ControlPolicy, PolicyConfig
from mrt.errors import ConfigError
from tests.support.policies import MEMORIES, at, make_inputs, make_policy, named, randomised, stepped

REACH = {"none": 1, "short-window": 4, "long-window": 7}  # steps that can matter; the others remember all


def close(left: Any, right: Any, tolerance: float = 1e-5) -> bool:
    pairs = zip(left, right, strict=True)
    return all(bool(((a - b).abs() <= tolerance * (1 + b.abs())).all()) for a, b in pairs)


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
@pytest.mark.parametrize("memory", MEMORIES)
def test_acting_and_learning_agree(memory: str, continuous: bool, separate: bool) -> None:
    policy = make_policy(memory, continuous, separate_critic=separate)
    inputs = make_inputs(continuous=continuous)
    with torch.no_grad():
        whole = policy(inputs)
    assert whole.logits.std() > 0.05
    assert whole.values.std() > 0.01
    assert close(stepped(policy, inputs), whole)


@pytest.mark.parametrize(
    "options", [{"key": "learned"}, {"neighbours": 1}, {"clear": False}, {"context": [1, 2]}], ids=str
)
def test_the_dictionary_agrees_with_itself(options: dict[str, Any]) -> None:
    policy = make_policy("episodic-lstm", memory_options={"slots": 3, **options})
    inputs = make_inputs()
    with torch.no_grad():
        assert close(stepped(policy, inputs), policy(inputs))


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize("memory", MEMORIES)
def test_forks_are_independent_replays(memory: str, separate: bool) -> None:
    policy, inputs, branched = make_policy(memory, separate_critic=separate), make_inputs(), make_inputs(seed=9)
    rows, cut = torch.tensor([2, 0, 2]), 7
    state = policy.init_state(4)
    for t in range(cut):
        with torch.no_grad():
            _, state = policy.step(at(inputs, t), state)
    fork = policy.fork(state, rows)
    branches = {name: torch.cat([inputs[name][rows, :cut], branched[name][:3, cut:]], 1) for name in inputs}
    with torch.no_grad():
        expected = policy(branches)
    after = stepped(policy, branches, fork, cut)
    assert close(after, [part[:, cut:] for part in expected])
    with torch.no_grad():  # and the trunk goes on as if nothing had been branched
        assert close(stepped(policy, inputs, state, cut), [part[:, cut:] for part in policy(inputs)])


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_fork_before_the_first_step_is_a_fresh_start(memory: str) -> None:
    policy, inputs = make_policy(memory), make_inputs()
    rows = torch.tensor([3, 3, 1])
    chosen = {name: value[rows] for name, value in inputs.items()}
    fork = policy.fork(policy.init_state(4), rows)
    with torch.no_grad():
        assert close(stepped(policy, chosen, fork), policy(chosen))


@pytest.mark.parametrize("memory", MEMORIES)
def test_nothing_looks_ahead(memory: str) -> None:
    """Outputs before a changed step are the same but for rounding; at the step and after it they are not."""
    policy, inputs, t = make_policy(memory, see=["observation", "action", "reward", "done"]), make_inputs(), 6
    with torch.no_grad():
        before = policy(inputs)
        for name, value in inputs.items():
            changed = value.clone()
            changed[:, t] = {"done": 1 - value[:, t], "action": (value[:, t] + 2) % 3}.get(name, value[:, t] + 1)
            after = policy({**inputs, name: changed})
            assert torch.allclose(after.logits[:, :t], before.logits[:, :t], atol=1e-6)
            assert torch.allclose(after.values[:, :t], before.values[:, :t], atol=1e-6)
            moved = ((after.logits - before.logits).abs() > 1e-5).any(-1)
            assert bool(moved[:, t].all())
            assert bool(moved[:, t + 1].any()) == (memory != "none"), f"{name} is not remembered"


@pytest.mark.parametrize("memory", MEMORIES)
def test_how_far_a_memory_reaches(memory: str) -> None:
    """The value at the last step depends on the first inputs, unless the window is shorter."""
    policy, steps = make_policy(memory, see=["observation", "reward"]), 10
    inputs = make_inputs(steps=steps)
    inputs["done"] = torch.zeros_like(inputs["done"])
    inputs["observation"].requires_grad_(True)
    (grad,) = torch.autograd.grad(policy(inputs).values[:, -1].sum(), inputs["observation"])
    felt = (grad != 0).any(-1).all(0).nonzero()[:, 0]
    assert steps - int(felt.min()) == REACH.get(memory, steps)


@pytest.mark.parametrize("memory", MEMORIES)
def test_trials_of_a_batch_do_not_meet(memory: str) -> None:
    """d output of trial i / d inputs of trial j is 0, and permuting the trials permutes the outputs."""
    policy, inputs = make_policy(memory), make_inputs()
    inputs["observation"].requires_grad_(True)
    (grad,) = torch.autograd.grad(policy(inputs).logits[1].square().sum(), inputs["observation"])
    others = torch.tensor([0, 2, 3])
    assert bool((grad[others] == 0).all())
    assert bool((grad[1, -1] != 0).any())
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        whole = policy(inputs)
        permuted = policy({name: value[order] for name, value in inputs.items()})
    assert close(permuted, [part[order] for part in whole], 1e-6)


@pytest.mark.parametrize("memory", [name for name in MEMORIES if name != "none"])
def test_the_end_of_an_episode_is_no_end_of_the_memory(memory: str) -> None:
    """What was seen before `done` still moves what comes after it; a new trial starts from nothing."""
    policy, inputs = make_policy(memory), make_inputs()
    inputs["done"] = torch.zeros_like(inputs["done"])
    inputs["done"][:, 5] = 1
    inputs["reward"].requires_grad_(True)
    (grad,) = torch.autograd.grad(policy(inputs).logits[:, 6].sum(), inputs["reward"])
    if memory != "episodic-lstm":  # stored cells carry no gradient: the next test perturbs it instead
        assert bool((grad[:, 4] != 0).all())
    with torch.no_grad():
        changed = inputs["reward"].clone()
        changed[:, 4] += 1
        assert bool((policy({**inputs, "reward": changed}).logits[:, 6] != policy(inputs).logits[:, 6]).any(1).all())
        first = stepped(policy, inputs, end=6)
        assert close(stepped(policy, inputs, end=6), first, 0), "a new trial starts from nothing"


def test_saving_and_loading(tmp_path: Path) -> None:
    inputs = make_inputs()
    for memory in MEMORIES:
        policy = make_policy(memory, separate_critic=memory == "gru")
        policy.save_pretrained(tmp_path / memory)
        again = ControlPolicy.from_pretrained(tmp_path / memory)
        assert again.config.memory_options == policy.config.memory_options
        assert {k: v.dtype for k, v in again.state_dict().items()} == {
            k: v.dtype for k, v in policy.state_dict().items()
        }
        with torch.no_grad():
            assert close(again.eval()(inputs), policy(inputs), 0), memory
            assert close(stepped(again, inputs), policy(inputs)), memory  # rotary tables are rebuilt for acting too


@pytest.mark.parametrize(
    ("backbone", "config"),
    [
        ("llama", {"num_key_value_heads": 1}),
        ("qwen2", {}),
        ("qwen3", {"rope_theta": 100.0}),
        ("gpt2", {}),
        ("gpt_neox", {}),
        ("mistral", {"sliding_window": 5}),
    ],
)
def test_any_decoder_is_a_memory(backbone: str, config: dict[str, Any], tmp_path: Path) -> None:
    options = {"backbone": backbone, "layers": 2, "heads": 2, "max_steps": 64, "config": config}
    policy, inputs = make_policy("transformer", memory_options=options), make_inputs(steps=20)
    with torch.no_grad():
        whole = policy(inputs)
    assert close(stepped(policy, inputs), whole)
    policy.save_pretrained(tmp_path)
    with torch.no_grad():
        assert close(ControlPolicy.from_pretrained(tmp_path).eval()(inputs), whole, 0)


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_trained_weight_has_a_gradient(memory: str) -> None:
    """A weight that nothing uses stalls DDP and TRPO."""
    policy, inputs = make_policy(memory, separate_critic=True), make_inputs()
    heads = policy(inputs)
    (heads.logits.square().sum() + heads.values.square().sum()).backward()
    assert [name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_window_lets_go_of_what_has_left_it() -> None:
    policy, inputs = make_policy("long-window"), make_inputs(steps=12)
    state = policy.init_state(4)
    for t in range(12):
        with torch.no_grad():
            _, state = policy.step(at(inputs, t), state)
    assert [layer.keys.shape[-2] for layer in state[0].layers] == [3, 3]
    short = make_policy("short-window", memory_options={"window": 1, "layers": 1, "heads": 2})
    with torch.no_grad():
        assert close(stepped(short, inputs), short(inputs))


def test_snail_by_hand() -> None:
    """One dense block of one filter over width 1: tanh(f) sigmoid(g), f and g of x_t and x_(t-1); then attention."""
    memory = make_memory(named("snail"), 1, steps=2, filters=1, keys=1, values=1, blocks=1)
    dense, attention = memory.blocks
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.zero_()
        dense.now.weight.copy_(torch.tensor([[1.0], [0.0]]))
        dense.past.weight.copy_(torch.tensor([[0.5], [1.0]]))
        attention.value.weight.copy_(torch.tensor([[0.0, 1.0]]))  # reads the filter; equal scores: a running mean
        memory.out.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        x = torch.tensor([[[1.0], [2.0]]])
        out = memory(x, {})[0, :, 0]
    f0 = torch.tanh(torch.tensor(1.0)) * 0.5
    f1 = torch.tanh(torch.tensor(2.5)) * torch.sigmoid(torch.tensor(1.0))
    assert torch.allclose(out, torch.stack([1 + 10 * f0 + 100 * f0, 2 + 10 * f1 + 100 * (f0 + f1) / 2]))


def test_snail_covers_its_trial() -> None:
    dilations = [
        block.dilation for block in make_memory(named("snail"), 4, steps=100).blocks if hasattr(block, "dilation")
    ]
    assert dilations == [1, 2, 4, 8, 16, 32, 64] * 2
    assert make_memory(named("snail"), 4, steps=1).span == 1


def episodic(**options: Any) -> tuple[Any, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    memory = randomised(make_memory(named("episodic-lstm"), 3, slots=2, **options))
    contexts = torch.tensor([[0, 0, 1, 1, 2, 2, 0, 0]])
    done = torch.tensor([[0.0, 1] * 4])
    return memory, {"observation": torch.eye(3)[contexts], "done": done}, torch.randn(1, 8, 3)


def test_the_dictionary_by_hand() -> None:
    """Three episodes in three contexts and two slots: what is read where, entry by entry."""
    memory, seen, x = episodic()
    state = None
    states = []
    for t in range(8):
        _, state = memory.step(x[:, t], {name: value[:, t] for name, value in seen.items()}, state)
        states.append(state)
    assert states[0].written.item() == 0
    assert states[1].written.item() == 1
    assert torch.equal(states[1].cells[0, 0], states[1].cell[0])
    assert torch.equal(states[3].cells[0, 1], states[3].cell[0])
    assert torch.equal(states[5].cells[0, 0], states[5].cell[0]), "the oldest entry gives way"
    assert torch.equal(states[5].keys[0], torch.eye(3)[[2, 1]])
    near, far = 1 / 1e-3, 1 / (2 + 1e-3)
    found = memory._read(torch.eye(3)[[1]], states[5])[0]
    cells = states[5].cells[0]
    assert torch.allclose(found, (far * cells[0] + near * cells[1]) / (near + far))
    assert torch.equal(memory._read(torch.eye(3)[[1]], memory._begin(torch.zeros(1, 3)))[0], torch.zeros(3))
    nearest, _, _ = episodic(neighbours=1)
    assert torch.allclose(nearest._read(torch.eye(3)[[1]], states[5])[0], cells[1])


def test_a_step_of_the_episodic_lstm_by_hand() -> None:
    """With an empty dictionary it is torch's LSTM cell; then the reinstatement gate adds tanh of what was found."""
    memory, seen, x = episodic(clear=False)
    first, state = memory.step(x[:, 0], {name: value[:, 0] for name, value in seen.items()}, None)
    cell = torch.nn.LSTMCell(3, 3)
    order = [0, 1, 4, 2]  # ours: input, forget, output, reinstatement, new; torch's: input, forget, new, output
    with torch.no_grad():
        for name, weight in (("weight_ih", memory.input.weight), ("weight_hh", memory.recurrent.weight)):
            getattr(cell, name).copy_(torch.cat([weight.chunk(5)[i] for i in order]))
        cell.bias_ih.copy_(torch.cat([memory.input.bias.chunk(5)[i] for i in order]))
        cell.bias_hh.zero_()
    hidden, inner = cell(x[:, 0])
    assert torch.allclose(first, hidden, atol=1e-6)
    _, state = memory.step(x[:, 1], {name: value[:, 1] for name, value in seen.items()}, state)
    hidden, inner = cell(x[:, 1], (hidden, inner))
    third, state = memory.step(x[:, 2], {name: value[:, 0] for name, value in seen.items()}, state)  # context 0 again
    gates = memory.input(x[:, 2]) + memory.recurrent(hidden)
    _, after = cell(x[:, 2], (hidden, inner))
    expected = after + torch.sigmoid(gates.chunk(5, -1)[3]) * torch.tanh(inner)  # one entry: found is what was stored
    assert torch.allclose(state.cell, expected, atol=1e-6)
    assert torch.allclose(third, torch.sigmoid(gates.chunk(5, -1)[2]) * torch.tanh(expected), atol=1e-6)


def test_no_gradient_passes_through_what_is_stored() -> None:
    memory, seen, x = episodic()
    x.requires_grad_(True)
    (grad,) = torch.autograd.grad(memory(x, seen)[:, 6].sum(), x)  # context 0 again, an episode that has just begun
    assert bool((grad[0, :6] == 0).all())
    assert bool((grad[0, 6] != 0).all())
    kept, seen, x = episodic(clear=False)
    x.requires_grad_(True)
    (grad,) = torch.autograd.grad(kept(x, seen)[:, 6].sum(), x)
    assert bool((grad[0, :6] != 0).any()), "an uncleared working memory goes on"


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown memory 'gruu'.*did you mean 'gru'.*module:Class"):
        make_memory("gruu", 8)
    with pytest.raises(ConfigError, match="no such class; did you mean 'SNAIL'"):
        make_memory("classic_metarl.black_box.snail:SNIAL", 8)
    with pytest.raises(ConfigError, match="is not a Memory"):
        make_memory("mrt.control.policy:PolicyConfig", 8)
    with pytest.raises(ConfigError, match="code from outside"):
        make_memory("os:system", 8)
    with pytest.raises(ConfigError, match=r"memory 'gru' with \{'heads': 2\}"):
        make_memory("gru", 8, heads=2)
    with pytest.raises(ConfigError, match="no transformer of backbone='qwen99'"):
        make_memory("transformer", 8, backbone="qwen99")
    with pytest.raises(ConfigError, match="filters=0 must be at least 1"):
        make_memory(named("snail"), 8, filters=0)
    with pytest.raises(ConfigError, match="window=5, layers=4, heads=3 do not make a transformer of 8"):
        make_memory(named("short-window"), 8, heads=3)
    with pytest.raises(ConfigError, match="window=1: a sliding window"):
        make_memory(named("long-window"), 8, window=1)
    with pytest.raises(ConfigError, match="key='obs' is not a key of the dictionary"):
        make_memory(named("episodic-lstm"), 8, key="obs")
    with pytest.raises(ConfigError, match=r"see: \['rewards'\] are no inputs"):
        ControlPolicy(PolicyConfig(actions=2, see=["rewards"]))


def test_t_fixup_leaves_queries_and_keys_alone() -> None:
    """Huang et al. 2020: 0.67 L^(-1/4) on values, output and feed-forward; queries and keys keep Xavier's bound."""
    torch.manual_seed(0)
    size, layers = 32, 4
    layer = EncoderLayer(size, heads=4, hidden=64, layers=layers)
    bound, scale = (6 / (2 * size)) ** 0.5, 0.67 * layers**-0.25
    query, key, value = layer.mixed.weight.chunk(3)
    for part, expected in ((query, bound), (key, bound), (value, scale * bound), (layer.out.weight, scale * bound)):
        assert 0.95 * expected < float(part.detach().abs().max()) <= expected * 1.0001
    for part in (layer.up.weight, layer.down.weight):
        assert float(part.detach().abs().max()) <= 1.0001 * scale * (6 / (size + 64)) ** 0.5
