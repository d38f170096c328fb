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
from rung.rollout.cache import branch, without_padding
from rung.rollout.draw import draw
from rung.rollout.philox import Key, uniforms
from rung.sampling import Sampling

Step = Callable[[Tensor, Tensor, Tensor, Cache], Tensor]  # ids (n, s), mask, positions, cache -> logits (n, V)
GoesOn = Callable[[int, tuple[int, ...], FinishReason], bool]  # a row, the ids of its turn, and how the turn ended

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
    """The n rows to sample: for each its prompt, and the two numbers that determine its random draws.

    A row that goes on after an answer has `starts` tokens already, and begins with the tokens in `given`.
    """

    prompt_of: Tensor  # (n,) the index of the prompt in the prefill
    visits: Tensor  # (n,) the visit of the prompt
    samples: Tensor  # (n,) the number of the sample among those of its prompt
    starts: Tensor | None = None  # (n,) int64; None: 0
    given: Sequence[Sequence[int]] = ()  # empty: none


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

    def stopped(self, ids: Tensor | Sequence[Tensor]) -> Tensor:
        """(n,) bool: true for rows whose completion, `ids` (n, t), has a stop string near its end when decoded.

        Completions of different lengths are a sequence of tensors (t,).
        """
        if not self.stop:
            return torch.zeros(len(ids), dtype=torch.bool)
        tails = [self._end(row) for row in ids]
        texts = [str(self.tokenizer.decode(tail, clean_up_tokenization_spaces=False)) for tail in tails]
        return torch.tensor([any(stop in text for stop in self.stop) for text in texts])

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
    """A batch of rows that are decoded together, each until its turn ends.

    `active` has the indices of the rows that are still in the batch; `unfinished` marks those that have not finished.
    If `goes_on` is given, it is called when a turn ends before the limit, with the row, the tokens of the turn and the
    reason. If it returns true, the state of the row is put into `kept`: a cache of one row, which has all tokens but
    the last.
    """

    def __init__(
        self,
        step: Step,
        stop_criteria: StopCriteria,
        prefill: Prefill,
        rows: Rows,
        *,
        key: Key,
        sampling: Sampling,
        goes_on: GoesOn | None = None,
    ):
        device = prefill.logits.device
        self.step, self.stop_criteria, self.prefill, self.key, self.sampling = (
            step,
            stop_criteria,
            prefill,
            key,
            sampling,
        )
        self.goes_on, self.kept = goes_on, dict[int, Cache]()
        self.rows, self.prompt_of = rows, rows.prompt_of.to(device)
        self.starts = torch.zeros_like(rows.visits) if rows.starts is None else rows.starts
        self.limits = (sampling.max_completion_length - self.starts).to(device)
        self.limit = int(self.limits.max())
        self.active = torch.arange(len(self.prompt_of), device=device)
        self.unfinished = torch.ones_like(self.active, dtype=torch.bool)
        self.given, self.num_given = _padded(rows.given or [()] * len(self.active), device)
        self.ids = torch.zeros((len(self.active), self.limit), dtype=torch.long, device=device)
        self.logps = torch.zeros((len(self.active), self.limit), device=device)
        self.lengths = self.limits.clone()
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
            tokens = self._next(logits, t)
            self._finish(tokens, t, cache)
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

    def _next(self, logits: Tensor, t: int) -> Tensor:
        """The token t of each active row: drawn, or given."""
        if t and t % _KEYED_TOKENS == 0:
            self.uniforms = self._uniforms(t)
        tokens, logps = draw(logits, self.uniforms[:, t % _KEYED_TOKENS], self.sampling)
        if t < self.given.shape[1]:
            given = t < self.num_given[self.active]
            tokens = torch.where(given, self.given[self.active, t], tokens)
            logps = logps.masked_fill(given, 0.0)
        self.ids[self.active, t], self.logps[self.active, t] = tokens, logps
        return tokens

    def _uniforms(self, t: int) -> Tensor:
        active, count = self.active.cpu(), min(_KEYED_TOKENS, self.limit - t)
        visits, samples, starts = (numbers[active] for numbers in (self.rows.visits, self.rows.samples, self.starts))
        return uniforms(self.key, visits, samples, starts + t, count).to(self.active.device)

    def _finish(self, tokens: Tensor, t: int, cache: Cache) -> None:
        """Marks the rows that end with token t; tokens sampled after the end of a row are discarded."""
        sampled = t >= self.num_given[self.active]
        ended: list[tuple[FinishReason, Tensor]] = [
            ("eos", sampled & self.stop_criteria.eos(tokens)),
            ("stop", self._stopped(sampled, t)),
        ]
        for reason, rows in ended:
            place = (self.unfinished & rows).nonzero()[:, 0]
            new = self.active[place]
            self.lengths[new] = t + 1
            for row in new.tolist():
                self.reasons[row] = reason
            self.unfinished[place] = False
            if self.goes_on is not None:
                self._keep(place.tolist(), t, cache)
        self.unfinished = self.unfinished & (self.limits[self.active] > t + 1)

    def _stopped(self, sampled: Tensor, t: int) -> Tensor:
        """(m,) bool: true for the active rows whose token t was `sampled` and completes a stop string in their turn."""
        if not self.stop_criteria.stop:
            return torch.zeros_like(sampled)
        rows = self.active[sampled].tolist()
        turns = [self.ids[row, int(self.num_given[row]) : t + 1] for row in rows]
        return sampled.masked_scatter(sampled, self.stop_criteria.stopped(turns).to(sampled.device))

    def _keep(self, places: Sequence[int], t: int, cache: Cache) -> None:
        """Tells `goes_on` of the turns that ended with token t, and keeps the states of rows that it continues."""
        assert self.goes_on is not None
        for place in places:
            row = int(self.active[place])
            turn = self.ids[row, int(self.num_given[row]) : t + 1].tolist()
            if self.goes_on(row, tuple(turn), self.reasons[row]):
                length = int(self.prefill.lengths[self.prompt_of[row]]) + t
                self.kept[row] = without_padding(cache, place, length)

    def _completions(self) -> list[Completion]:
        drawn = torch.arange(self.limit, device=self.active.device) < self.lengths[:, None]
        if not self.logps[drawn].isfinite().all():
            raise NonFiniteError(*NOT_FINITE)
        rows = zip(
            self.ids.tolist(),
            self.logps.tolist(),
            self.lengths.tolist(),
            self.reasons,
            self.num_given.tolist(),
            strict=True,
        )
        return [
            Completion(tuple(ids[:n]), tuple(logps[:n]), reason, _sampled(given, n))
            for ids, logps, n, reason, given in rows
        ]


def _sampled(given: int, length: int) -> tuple[bool, ...]:
    """Which tokens of a row were sampled, if the first ones were given; empty if all were."""
    return (False,) * given + (True,) * (length - given) if given else ()


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows (n, longest) int64, padded with 0 on the right, and their lengths (n,)."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long, device=device), lengths
