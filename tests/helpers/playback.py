"""A sampler that plays recorded turns: what the model writes is given, all else is as in a rollout."""

from collections.abc import Mapping, Sequence

from rung.agents.protocol import RowName, Turn, World
from rung.batch import Completion, FinishReason
from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler, Prompt
from rung.sampling import Sampling
from rung.tiny.models import build


class Playback(LocalSampler):
    """Plays the texts in `turns` for each row; a text is followed by EOS. A row without a text left must have ended."""

    def __init__(self, turns: Mapping[RowName, Sequence[str]] | Sequence[str]):
        super().__init__(*build("llama"))
        self.turns = turns
        self.rows: list[RowName] = []

    def sample_trajectories(
        self, prompts: Sequence[Prompt], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling, world: World
    ) -> list[list[Completion]]:
        self.rows = [(i, j) for i in range(len(prompts)) for j in range(k)]
        world.start(self.rows)
        played = {row: self._play(row, world, sampling.max_completion_length) for row in self.rows}
        return [[played[i, j] for j in range(k)] for i in range(len(prompts))]

    def _play(self, row: RowName, world: World, limit: int) -> Completion:
        ids: list[int] = []
        sampled: list[bool] = []
        end: FinishReason = "eos"
        for text in self.turns[row] if isinstance(self.turns, Mapping) else self.turns:
            turn = [*self.tokenizer.encode(text), self.tokenizer.eos_token_id][: limit - len(ids)]
            ids += turn
            sampled += [True] * len(turn)
            if turn[-1] != self.tokenizer.eos_token_id:
                end = "length"
                break
            if not world.submit(row, Turn(tuple(turn), "eos", limit - len(ids))):
                end = "eos"
                break
            answers = []
            while not answers:
                answers = world.answers(10.0)
            ((name, answer),) = answers
            assert name == row
            if answer.end is not None:
                end = answer.end
                break
            ids += answer.ids
            sampled += [False] * len(answer.ids)
        return Completion(tuple(ids), tuple(-1.0 if own else 0.0 for own in sampled), end, tuple(sampled))
