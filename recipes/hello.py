"""Meta-reinforcement finetuning on one page, in plain PyTorch: what `mrt train countdown/mrt` does, without the library
around it.

    python recipes/hello.py runs/quickstart/warmstart/model --steps 20

A trace is a trial, its attempts are the episodes. After each one we ask: if the model had to answer now, how likely is
a right answer? That is J. An episode is rewarded for what it adds to J (its progress), next to the outcome of the
whole trace (Qu et al. 2025, arXiv 2503.07572). A larger model is only
another path.
"""

import argparse
import random

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from mrt.reasoning.problems.countdown import Countdown

GROUP, PROBLEMS, TOKENS, ALPHA = 8, 12, 120, 2.0
CLOSE, BOX, WAIT = "</think>", "\\boxed{", "\n\nWait"


def log_probs(model, rows):
    """(rows, longest - 1) log-probability of every token but the first, given those before it."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]


def stop_value(model, tokenizer, prefixes, solutions):
    """J of each prefix: the probability that an answer forced behind it is one of the correct ones, summed exactly."""
    suffix = tokenizer(CLOSE + BOX, add_special_tokens=False)["input_ids"]
    answers = [tokenizer(text + "}", add_special_tokens=False)["input_ids"] for text in solutions]
    rows = [[*prefix, *suffix, *answer] for prefix in prefixes for answer in answers]
    with torch.no_grad():
        scores = log_probs(model, rows)
    sums = [scores[i, len(row) - len(answers[i % len(answers)]) - 1 :].sum() for i, row in enumerate(rows)]
    return torch.stack(sums).exp().view(len(prefixes), len(answers)).sum(1)


def boundaries(thought, wait):
    """Where episodes end, counted in tokens of the thought: before each "Wait", and at its end."""
    return [i for i, token in enumerate(thought) if token == wait and i] + ([len(thought)] if thought else [])


def main(path, steps, learning_rate, seed):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    close, wait = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (CLOSE, WAIT))
    countdown = Countdown(numbers=3, high=25, train=13000, warmstart=5000, test=1000)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    for step in range(steps):
        rows, weights, rewards = [], [], []
        for problem in rng.sample(countdown.problems("train"), PROBLEMS):
            chat = [{"role": "user", "content": problem.prompt}]
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            sampled = model.generate(torch.tensor([prompt] * GROUP), max_new_tokens=TOKENS)[:, len(prompt) :].tolist()
            completions = [ids[: ids.index(tokenizer.eos_token_id) + 1] if tokenizer.eos_token_id in ids else ids
                           for ids in sampled]  # fmt: skip
            texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
            outcome = torch.tensor([countdown.grade(problem, text, opened=True).reward or 0.0 for text in texts])
            advantage = (outcome - outcome.mean()) / (outcome.std() + 1e-4)  # GRPO: the same for every token
            rewards += outcome.tolist()
            for ids, base in zip(completions, advantage, strict=True):
                thought = ids[: ids.index(close)] if close in ids else ids
                cuts = [0, *boundaries(thought, wait)]
                J = stop_value(model, tokenizer, [[*prompt, *thought[:c]] for c in cuts], countdown.solutions(problem))
                weight = base.repeat(len(ids))
                for begin, end, progress in zip(cuts, cuts[1:], J.diff(), strict=False):
                    weight[begin:end] += ALPHA * progress  # MRT: every episode is paid for its own progress
                rows.append([*prompt, *ids])
                weights.append(torch.cat([torch.zeros(len(prompt) - 1), weight]))
        loss = -(log_probs(model, rows) * pad_sequence(weights, batch_first=True)).sum() / sum(map(len, weights))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens = sum(map(len, weights)) / len(rows)
        print(f"step {step + 1}: accuracy {sum(rewards) / len(rewards):.3f}, {tokens:.0f} tokens")
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder with model and tokenizer, for instance runs/quickstart/warmstart/model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    ns = parser.parse_args()
    main(ns.model, ns.steps, ns.learning_rate, ns.seed)
