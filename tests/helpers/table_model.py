"""A Llama whose numbers are given: its LM head is a table of next-token probabilities, a head on it one by token.

Its layers add nothing to its one-hot embeddings, so the hidden state of a position is 4 times the one-hot vector of its
token. Every token that nothing should be read from, padding included, holds 100.
"""

from collections.abc import Mapping

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rung.algorithm import Algorithm
from rung.batch import Batch
from rung.forward.planner import Layout
from rung.forward.policy import Policy

LAYOUTS = pytest.mark.parametrize("layout", ["plain", "shared", "masked"])
TOKENS = "_abcdefghijpq012"  # `_` pads; a digit inside a completion is attended and not trained
UNREAD = 100.0
Table = Mapping[str, float]  # probabilities by two letters, a token and the next; or numbers by token


def table_model(probabilities: Table) -> LlamaForCausalLM:
    """The model whose next-token probabilities are these."""
    size = len(TOKENS)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-12,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
    set_probabilities(model, probabilities)
    return model


@torch.no_grad()
def set_probabilities(model: LlamaForCausalLM, probabilities: Table) -> None:
    """Gives the LM head these probabilities; what they leave of 1 is shared by the other tokens."""
    for i, token in enumerate(TOKENS):
        given = {TOKENS.index(pair[1]): p for pair, p in probabilities.items() if pair[0] == token}
        rest = (1 - sum(given.values())) / (len(TOKENS) - len(given))
        table = torch.full((len(TOKENS),), rest, dtype=torch.float64)
        table[list(given)] = torch.tensor(list(given.values()), dtype=torch.float64)
        model.lm_head.weight[:, i] = (table.log() / 4).float()


def head_of(numbers: Table) -> torch.nn.Linear:
    """A head that reads the number of each token, and 100 where none is given."""
    made = torch.nn.Linear(len(TOKENS), 1, bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([[numbers.get(token, UNREAD) / 4 for token in TOKENS]]))
    return made


def with_layout(policy: Policy, layout: Layout) -> Policy:
    """The policy, which knows no other layout."""
    policy.layouts = lambda: (layout,)  # type: ignore[method-assign]
    return policy


def policy_with_values(
    layout: Layout, policy: Table, reference: Table, values: Table, *, critic: bool = False
) -> Policy:
    """A policy with a reference, and the values of its own hidden states or of a critic's."""
    apart = table_model({}) if critic else None
    made = Policy(table_model(policy), value_head=head_of(values), critic=apart, reference=table_model(reference))
    return with_layout(made, layout)


def batch_of_answers(*rows: tuple[str, str], rewards: list[float] | None = None, truncated: str = "") -> Batch:
    """A prompt and a completion a row, rows of a prompt adjacent and one group; `truncated` has an x for a cut row."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in rows))
    prompt_of = torch.tensor([prompts.index(prompt) for prompt, _ in rows])
    completions = [completion for _, completion in rows]
    width, prompt_width = max(map(len, completions)), max(map(len, prompts))

    def ids(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[TOKENS.index(letter) for letter in text] for text in texts])

    completion_ids = ids([text.ljust(width, "_") for text in completions])
    prompt_ids = ids([text.rjust(prompt_width, "_") for text in prompts])
    return Batch(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_ids != 0,
        prompt_of=prompt_of,
        group_of=prompt_of,
        completion_ids=completion_ids,
        completion_mask=completion_ids != 0,
        loss_mask=(completion_ids != 0) & (completion_ids < TOKENS.index("0")),
        row_ids=tuple(completions),
        truncated=torch.tensor([mark == "x" for mark in truncated.ljust(len(rows))]),
        rewards=torch.tensor(rewards) if rewards else None,
    )


def credited(algorithm: Algorithm, policy: Policy, batch: Batch) -> Batch:
    """The batch as a step would get it: prepared, and with the credit of a first rollout."""
    return algorithm.credit(algorithm.prepare(batch, policy), algorithm.initial_state())[0]


def summed_losses(algorithm: Algorithm, policy: Policy, batch: Batch) -> dict[str, float]:
    """The sums that a step would divide by its denominators."""
    losses = [algorithm.loss(part, outputs).terms for part, outputs in policy.parts(batch, algorithm)]
    return {name: sum(float(loss[name].detach()) for loss in losses) for name in algorithm.terms()}


def assert_close(
    actual: torch.Tensor | None, expected: list[list[float]]
) -> tuple[torch.Tensor | None, list[list[float]]]:
    """Both of them, which agree to 1e-5."""
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-5, rtol=0)
    return actual, expected
