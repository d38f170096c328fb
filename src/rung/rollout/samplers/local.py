"""The built-in sampler, which prefills each distinct prompt once and removes finished rows from the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from rung.agents.protocol import World
from rung.batch import Completion
from rung.errors import ConfigError, MemoryLimitError
from rung.forward.memory import attempt, tell_lowered
from rung.models.stops import stop_ids
from rung.models.vocabulary import without_unused
from rung.rollout.cache import new_cache
from rung.rollout.decode import DecodeBatch, Prefill, Rows, StopCriteria
from rung.rollout.generate_rows import generate_rows, shares_state
from rung.rollout.philox import Key
from rung.rollout.samplers.protocol import Prompt
from rung.rollout.trajectories import Trajectories
from rung.sampling import Sampling

Name = TypeVar("Name", bound=tuple[int, ...])


class _Draws(NamedTuple):
    """What is drawn in one call of `sample`: `k` completions of each prompt, and how."""

    k: int
    visits: Sequence[int]
    stop_criteria: StopCriteria
    key: Key
    sampling: Sampling
    world: World | None


class LocalSampler:
    """Samples from the policy in this process, with or without an adapter; dropout is off during sampling.

    Models whose state cannot be shared between rows, such as recurrent ones, are sampled with their own `generate`.

    `max_rows` is the maximum number of rows that are decoded together, `prefill_tokens` that of prompt tokens (with
    padding) in one prefill; both are lowered when memory runs out. Counters since construction: `prefills` (prefilled
    prompts), `positions` (computed tokens, padding included) and `decode_calls`. `sampled` is called with the number of
    completions of a call of `sample` that are finished.
    """

    name: ClassVar = "local"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_rows: int = 256,
        prefill_tokens: int = 8192,
        training_dtype: torch.dtype = torch.float32,
    ):
        self.model, self.tokenizer = model, tokenizer
        self.max_rows, self.prefill_tokens, self.training_dtype = max_rows, prefill_tokens, training_dtype
        self.prefills = self.positions = self.decode_calls = 0
        self.sampled: Callable[[int], object] = lambda num_completions: None
        self._shares_state = shares_state(model)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Does nothing, since this sampler uses the model that is being trained."""

    def exact(self, sampling: Sampling) -> bool:
        """Whether log-probs of sampling equal those of training: `sampling.untruncated`, and the same dtype.

        Inside autocast, its dtype counts. A recurrent state, which is updated token by token, is not the same.
        """
        device = self.model.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else self.model.dtype
        return sampling.untruncated and dtype == self.training_dtype and self._shares_state

    @torch.no_grad()  # inference mode would return tensors that autograd rejects later
    def sample(
        self, prompts: Sequence[Prompt], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling
    ) -> list[list[Completion]]:
        """`k` completions of each prompt, in the order of the prompts.

        `visits` has one number per prompt: the random numbers of sample j depend only on the visit, j and `key`.
        Log-probs are in nats, float32, at the sampling temperature (1 for greedy decoding), before top-k, top-p and
        min-p. Raises ConfigError for a prompt that is empty or too long, NonFiniteError if the log-probs of the policy
        are not finite, and MemoryLimitError if a single row does not fit into memory.
        """
        return self._sample(prompts, k, visits, key, sampling, None)

    @torch.no_grad()
    def sample_trajectories(
        self, prompts: Sequence[Prompt], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling, world: World
    ) -> list[list[Completion]]:
        """`k` trajectories of each prompt, in the order of the prompts: completions in which `world` answers turns.

        A row is named by the number of its prompt and that of its sample. After an answer it goes on from its own
        cache. Log-probs of answers are 0. Draws and errors are those of `sample`; when memory runs out, rows are
        started again. The model has no state but a cache of attention layers (`shares_state`).
        """
        return self._sample(prompts, k, visits, key, sampling, world)

    def _sample(
        self,
        prompts: Sequence[Prompt],
        k: int,
        visits: Sequence[int],
        key: Key,
        sampling: Sampling,
        world: World | None,
    ) -> list[list[Completion]]:
        assert len(visits) == len(prompts), "`visits` needs one entry per prompt"
        assert k >= 1, "`k` must be at least 1"
        self._check_room(prompts, sampling)
        indices_of: dict[Prompt, list[int]] = {}
        for i, prompt in enumerate(prompts):
            indices_of.setdefault(tuple(prompt), []).append(i)
        stop_criteria = StopCriteria(self.tokenizer, stop_ids(self.model, self.tokenizer), sampling.stop)
        sample = self._sample_sharing if self._shares_state else self._sample_alone
        with _eval_mode(self.model):
            drawn = sample(indices_of, _Draws(k, visits, stop_criteria, key, sampling, world))
        return [[drawn[i, j] for j in range(k)] for i in range(len(prompts))]

    def _sample_sharing(
        self, indices_of: Mapping[Prompt, list[int]], draws: _Draws
    ) -> dict[tuple[int, int], Completion]:
        """The completions by index of the prompt and number; prompts are prefilled once, finished rows are removed."""
        drawn: dict[tuple[int, int], Completion] = {}
        for block in self._blocks(indices_of, draws.k):
            self._sample_block(block, indices_of, draws, drawn)
        return drawn

    def _sample_block(
        self,
        block: Sequence[Prompt],
        indices_of: Mapping[Prompt, list[int]],
        draws: _Draws,
        drawn: dict[tuple[int, int], Completion],
    ) -> None:
        """Adds the completions of the prompts of a block to `drawn`; if memory runs out, of half the block at a time.

        Raises MemoryLimitError if a single row does not fit into memory.
        """
        prefilled = attempt(lambda: self._prefill(block))
        names = [(p, i, j) for p, prompt in enumerate(block) for i in indices_of[prompt] for j in range(draws.k)]

        def decode(chunk: Sequence[tuple[int, int, int]]) -> Sequence[Completion]:
            assert prefilled is not None
            prompt_of, index, samples = torch.tensor(chunk).unbind(1)
            rows = Rows(prompt_of, torch.tensor(draws.visits)[index], samples)
            if draws.world is not None:
                trajectories = Trajectories(
                    self._decode,
                    draws.stop_criteria,
                    draws.world,
                    key=draws.key,
                    sampling=draws.sampling,
                    prefill_tokens=self.prefill_tokens,
                )
                return trajectories.run(prefilled[0], rows, [name[1:] for name in chunk])
            return DecodeBatch(
                self._decode, draws.stop_criteria, prefilled[0], rows, key=draws.key, sampling=draws.sampling
            ).run()

        if prefilled is None or not self._sample_rows(names, lambda name: name[1:], decode, drawn):
            prefilled = None  # frees the cache
            if len(block) == 1:
                raise _one_row_error(block[0])
            middle = len(block) // 2
            self.prefill_tokens = middle * len(block[-1])
            tell_lowered("prefill_tokens", self.prefill_tokens)
            for half in (block[:middle], block[middle:]):
                self._sample_block(half, indices_of, draws, drawn)

    def _sample_alone(self, indices_of: Mapping[Prompt, list[int]], draws: _Draws) -> dict[tuple[int, int], Completion]:
        """The completions by index of the prompt and number, with the rows of one prompt at a time."""
        assert draws.world is None, "a recurrent state cannot wait for an answer"
        drawn: dict[tuple[int, int], Completion] = {}
        for prompt, indices in indices_of.items():

            def generate(chunk: Sequence[tuple[int, int]], prompt: Prompt = prompt) -> Sequence[Completion]:
                rows = [(draws.visits[i], j) for i, j in chunk]
                return generate_rows(
                    self.model, prompt, rows, stop_criteria=draws.stop_criteria, key=draws.key, sampling=draws.sampling
                )

            names = [(i, j) for i in indices for j in range(draws.k)]
            if not self._sample_rows(names, lambda name: name, generate, drawn):
                raise _one_row_error(prompt)
        return drawn

    def _sample_rows(
        self,
        names: Sequence[Name],
        key_of: Callable[[Name], tuple[int, int]],
        sample: Callable[[Sequence[Name]], Sequence[Completion]],
        drawn: dict[tuple[int, int], Completion],
    ) -> bool:
        """Adds the completions of the rows to `drawn`, `max_rows` at a time; halves `max_rows` if memory runs out.

        False if a single row does not fit into memory. The random draws of a row do not depend on the other rows.
        """
        start = 0
        while start < len(names):
            chunk = names[start : start + self.max_rows]
            made = attempt(lambda chunk=chunk: sample(chunk))
            if made is not None:
                drawn.update(zip(map(key_of, chunk), made[0], strict=True))
                self.sampled(len(drawn))
                start += len(chunk)
            elif len(chunk) == 1:
                return False
            else:
                self.max_rows = len(chunk) // 2
                tell_lowered("max_rows", self.max_rows)
        return True

    def _check_room(self, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for i, prompt in enumerate(prompts):
            if not prompt:
                raise ConfigError(f"prompt {i} has no tokens", "start it with the BOS token, or drop it")
            if room is not None and len(prompt) + sampling.max_completion_length > room:
                raise ConfigError(
                    f"prompt {i}: {len(prompt)} tokens and `max_completion_length` {sampling.max_completion_length} "
                    f"exceed the model's {room} positions",
                    "lower `max_completion_length`, or set `max_prompt_length` to drop such prompts",
                )

    def _blocks(self, indices_of: Mapping[Prompt, list[int]], k: int) -> Iterator[list[Prompt]]:
        """The distinct prompts in blocks of similar length, each within the limits of tokens and rows.

        A block of a single prompt may exceed the limits.
        """
        block: list[Prompt] = []
        rows = 0
        for prompt in sorted(indices_of, key=len):
            more = k * len(indices_of[prompt])
            if block and ((len(block) + 1) * len(prompt) > self.prefill_tokens or rows + more > self.max_rows):
                yield block
                block, rows = [], 0
            block.append(prompt)
            rows += more
        if block:
            yield block

    def _prefill(self, block: Sequence[Prompt]) -> Prefill:
        device, width = self.model.device, len(block[-1])
        pad = self.tokenizer.pad_token_id or 0  # any id works, because padding is masked
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in block], device=device)
        lengths = torch.tensor([len(prompt) for prompt in block], device=device)
        mask = torch.arange(width, device=device) >= width - lengths[:, None]
        cache = new_cache(self.model.config)
        logits = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
        assert cache.get_seq_length() == width, "the model did not fill the KV cache"
        self.prefills += len(block)
        return Prefill(cache, logits, mask, lengths)

    def _decode(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        self.decode_calls += 1
        return self._forward(ids, mask, positions, cache)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """The logits (n, V) float32 at the last position, after a forward pass that adds `ids` (n, s) to the cache.

        `positions` (n, s) are the positions of the ids; `mask` (n, cached + s) bool is true at attended tokens.
        """
        self.positions += ids.numel()
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        logits = self.model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1]
        return without_unused(self.model, logits).float()


def _one_row_error(prompt: Prompt) -> MemoryLimitError:
    what = f"out of memory while sampling one completion of a prompt of {len(prompt)} tokens"
    remedy = "lower `rollout.max_completion_length` (of an evaluation: `evaluate.max_completion_length`)"
    return MemoryLimitError(what, f"{remedy} and `max_prompt_length`, or take a smaller model")


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """A context manager that puts the model in eval mode, and afterwards restores the mode of each module."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
