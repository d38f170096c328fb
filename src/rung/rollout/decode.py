"""The decode loop for a batch of rows: draws a token, marks and removes finished rows, and computes the next logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from rung.batch import Completion, FinishReason
from rung.errors import NonFiniteError
from rung.rollout.cache import branch
from rung.rollout.draw import draw
from rung.rollout.philox import Key, uniforms
from rung.sampling import Sampling

Step = Callable[[Tensor, Tensor, Tensor, Cache], Tensor]  # ids (n, s), mask, positions, cache -> logits (n, V)

NOT_FINITE = (
    "the policy gave non-finite log-probs during sampling",
    "start afresh with `rung run --new` and a lower `learning_rate`",
)
_KEYED_TOKENS = 128  # random numbers are computed for this many tokens at a time
_MIN_UNFINISHED = 0.8  # finished rows are removed when the fraction of unfinished rows falls below this


@dataclass(frozen=True, slots=True)
class Prefill:
    """The KV cache and the logits after the prefill of P prompts, padded to width S."""

    cache: Cache
    logits: Tensor  # (P, V) float32 after the last prompt token
    mask: Tensor  # (P, S) bool, left-padded
    lengths: Tensor  # (P,)


@dataclass(frozen=True, slots=True)
class Rows:
    """The n completions to sample: for each row its prompt, and the two numbers that determine its random draws."""

    prompt_of: Tensor  # (n,) the index of the prompt in the prefill
    visits: Tensor  # (n,) the visit of the prompt
    samples: Tensor  # (n,) the number of the sample among those of its prompt


class StopCriteria:
    """Tests whether a completion has ended before the length limit, by an EOS token or a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: Sequence[int], stop: tuple[str, ...]):
        self.tokenizer, self.eos_ids, self.stop = tokenizer, tuple(eos_ids), stop
        # Only this many tokens at the end are decoded. A token has at least one byte, so the longest stop string has at
        # most as many tokens as bytes. With four more tokens, a character that is cut in two at the start, or a leading
        # space that some decoders strip, does not affect the match.
        self._tail = max((len(text.encode()) for text in stop), default=0) + 4
        named = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in range(256)] if stop else []
        self._bytes = {token for token in named if isinstance(token, int) and token != tokenizer.unk_token_id}

    def eos(self, tokens: Tensor) -> Tensor:
        """(n,) bool: true for rows whose latest token, in `tokens` (n,), is an EOS token."""
        return torch.isin(tokens, torch.tensor(self.eos_ids, dtype=torch.long, device=tokens.device))

    def stopped(self, ids: Tensor) -> Tensor:
        """(n,) bool: true for rows whose completion, `ids` (n, t), has a stop string near its end when decoded."""
        if not self.stop:
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        tails = [self._end(row) for row in ids]
        texts = [str(self.tokenizer.decode(tail, clean_up_tokenization_spaces=False)) for tail in tails]
        return torch.tensor([any(stop in text for stop in self.stop) for text in texts], device=ids.device)

    def _end(self, ids: Tensor) -> list[int]:
        """The last of the `ids` (t,), as many as are needed to find a stop string.

        A sequence of SentencePiece byte tokens is taken as a whole, since it decodes wrongly if a character is cut.
        """
        tail = ids[-self._tail :].tolist()
        before = ids[: -self._tail].tolist() if tail[0] in self._bytes else []
        while before and tail[0] in self._bytes:
            tail.insert(0, before.pop())
        return tail


class DecodeBatch:
    """A batch of rows that are decoded together.

    `active` has the indices of the rows that are still in the batch; `unfinished` marks those that have not finished.
    """

    def __init__(
        self, step: Step, stop_criteria: StopCriteria, prefill: Prefill, rows: Rows, *, key: Key, sampling: Sampling
    ):
        device = prefill.logits.device
        self.step, self.stop_criteria, self.prefill, self.key, self.sampling = (
            step,
            stop_criteria,
            prefill,
            key,
            sampling,
        )
        self.rows, self.prompt_of = rows, rows.prompt_of.to(device)
        self.limit = sampling.max_completion_length
        self.active = torch.arange(len(self.prompt_of), device=device)
        self.unfinished = torch.ones_like(self.active, dtype=torch.bool)
        self.ids = torch.zeros((len(self.active), self.limit), dtype=torch.long, device=device)
        self.logps = torch.zeros((len(self.active), self.limit), device=device)
        self.lengths = torch.full_like(self.active, self.limit)
        self.reasons: list[FinishReason] = ["length"] * len(self.active)
        self.uniforms = self._uniforms(0)

    def run(self) -> list[Completion]:
        """Decodes until all rows have finished. Raises NonFiniteError if the log-probs of the policy are not finite."""
        width = self.prefill.mask.shape[1]
        cache = branch(self.prefill.cache, self.prompt_of)
        mask = nn.functional.pad(self.prefill.mask[self.prompt_of], (0, self.limit), value=True)
        positions = self.prefill.lengths[self.prompt_of]
        logits = self.prefill.logits[self.prompt_of]
        for t in range(self.limit):
            tokens = self._draw(logits, t)
            self._finish(tokens, t)
            num_unfinished = int(self.unfinished.sum())
            if num_unfinished == 0 or t + 1 == self.limit:
                break
            if num_unfinished < _MIN_UNFINISHED * len(self.unfinished):
                kept = self.unfinished.nonzero()[:, 0]
                cache.batch_select_indices(kept)
                mask, positions, tokens = mask[kept], positions[kept], tokens[kept]
                self.active, self.unfinished, self.uniforms = (
                    self.active[kept],
                    self.unfinished[kept],
                    self.uniforms[kept],
                )
            logits = self.step(tokens[:, None], mask[:, : width + t + 1], (positions + t)[:, None], cache)
        return self._completions()

    def _draw(self, logits: Tensor, t: int) -> Tensor:
        if t and t % _KEYED_TOKENS == 0:
            self.uniforms = self._uniforms(t)
        tokens, logps = draw(logits, self.uniforms[:, t % _KEYED_TOKENS], self.sampling)
        self.ids[self.active, t], self.logps[self.active, t] = tokens, logps
        return tokens

    def _uniforms(self, t: int) -> Tensor:
        active, count = self.active.cpu(), min(_KEYED_TOKENS, self.limit - t)
        return uniforms(self.key, self.rows.visits[active], self.rows.samples[active], t, count).to(self.active.device)

    def _finish(self, tokens: Tensor, t: int) -> None:
        """Marks the rows that end with token t; tokens sampled after the end of a row are discarded."""
        ended: list[tuple[FinishReason, Tensor]] = [
            ("eos", self.stop_criteria.eos(tokens)),
            ("stop", self.stop_criteria.stopped(self.ids[self.active, : t + 1])),
        ]
        for reason, rows in ended:
            new = self.active[self.unfinished & rows]
            self.lengths[new] = t + 1
            for row in new.tolist():
                self.reasons[row] = reason
            self.unfinished = self.unfinished & ~rows

    def _completions(self) -> list[Completion]:
        drawn = torch.arange(self.limit, device=self.active.device) < self.lengths[:, None]
        if not self.logps[drawn].isfinite().all():
            raise NonFiniteError(*NOT_FINITE)
        rows = zip(self.ids.tolist(), self.logps.tolist(), self.lengths.tolist(), self.reasons, strict=True)
        return [Completion(tuple(ids[:n]), tuple(logps[:n]), reason) for ids, logps, n, reason in rows]
