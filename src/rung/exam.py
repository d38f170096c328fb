"""A path's evaluations: which items, metrics, shots and decoding, the same for every model that it measures."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rung.data.load import load_examples
from rung.data.records import Example, as_prompt
from rung.data.splits import sample
from rung.errors import ConfigError, within
from rung.evaluate import OUTPUT_TOKENS, TRUNCATED, Evaluation, check_items, evaluate
from rung.fewshot import encode_question
from rung.judges import located
from rung.models import load_model, num_positions, placed
from rung.reward import Rewards
from rung.rollout.draw import Sampling
from rung.rollout.philox import Key
from rung.rollout.sampler import LocalSampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rung.comparison import Goal
    from rung.config import PathConfig

ExamSet = Literal["validation", "test"]


class Exam:
    """The evaluations that a resolved config asks for; data are read on first use.

    Raises UserError, naming key, file or row, where the data, the metrics or the shots cannot be had.
    """

    def __init__(self, config: PathConfig):
        self.config = config
        self.block = config.evaluate
        metrics = located(self.block.metrics, config, None)
        with within("`evaluate.metrics`"):
            self.metrics = Rewards(metrics, base=config.base)

    @property
    def goals(self) -> dict[str, Goal]:
        """Whether more or less is better, by metric, for all that an evaluation holds."""
        return {**self.metrics.goals, OUTPUT_TOKENS: "min", TRUNCATED: "min"}

    @cached_property
    def validation(self) -> list[Example]:
        """The items that gates read; none where the config names no set."""
        return self._examples("validation")

    @cached_property
    def test(self) -> list[Example]:
        """The items that are read once, at the end; none where the config names no set."""
        return self._examples("test")

    @cached_property
    def _shots_from(self) -> list[Example]:
        if self.block.shots_from is None:
            what = "shots are asked for, and `evaluate.shots_from` does not say where examples come from"
            raise ConfigError(what, "name data with answers, such as the training data")
        data = self.config.data_of(self.block.shots_from)
        return load_examples(data, base=self.config.base, seed=self.config.seed)[0]

    def shots(self, count: int) -> list[Example]:
        """So many examples; more of them include the fewer. Raises ConfigError where there are not so many."""
        if count == 0:
            return []
        if count > len(self._shots_from):
            what = f"{count} shots are asked for, and `evaluate.shots_from` has {len(self._shots_from)} examples"
            raise ConfigError(what, "ask for fewer `shots`, or name more data")
        return sample(self._shots_from, count, self.config.seed)

    def check(self) -> None:
        """Raises UserError for a metric that cannot read a set, or a set that is not there."""
        for name, examples in (("validation", self.validation), ("test", self.test)):
            if examples:
                self.metrics.check(set.intersection(*(set(as_prompt(example).columns) for example in examples)))
            elif name == "validation" and self.block.metrics:
                raise ConfigError(
                    "`evaluate.metrics` are given without `evaluate.validation`", "name the items to measure on"
                )

    def check_set(self, exam_set: ExamSet) -> None:
        """Raises ConfigError where the config names no items for a set."""
        if not getattr(self, exam_set):
            what = f"`evaluate.{exam_set}` names no items"
            raise ConfigError(what, f"name them in the config, or as an override: evaluate.{exam_set}=...")

    def check_prompts(
        self, exam_set: ExamSet, num_shots: int, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Raises UserError, naming the row, for an item that cannot be asked of a model with so many shots."""
        examples, shots = getattr(self, exam_set), self.shots(num_shots)
        check_items(examples, shots)
        positions = num_positions(model)
        for example in examples:
            num_tokens = len(encode_question(example, shots, tokenizer))
            if positions is not None and num_tokens + self._max_completion_length > positions:
                what = (
                    f"{example.source}: {num_tokens} tokens with {num_shots} shots, and {self._max_completion_length} "
                    f"to answer, exceed the model's {positions} positions"
                )
                raise ConfigError(what, "lower `evaluate.max_completion_length` or `shots`, or leave the row out")

    @property
    def _max_completion_length(self) -> int:
        assert isinstance(self.block.max_completion_length, int), "the config is resolved"
        return self.block.max_completion_length

    def take(self, location: str, exam_set: ExamSet, num_shots: int, file: Path | None = None) -> Evaluation:
        """How a model does on a set with so many shots; read from `file` where it is, else measured and kept there."""
        if file is not None and file.exists():
            return Evaluation.load(file)
        shots = self.shots(num_shots)
        model, tokenizer = load_model(location, seed=self.config.seed)
        self.check_prompts(exam_set, num_shots, model, tokenizer)
        measured = evaluate(
            LocalSampler(placed(model), tokenizer),
            tokenizer,
            getattr(self, exam_set),
            self.metrics,
            shots=shots,
            sampling=Sampling(
                max_completion_length=self._max_completion_length,
                temperature=self.block.temperature,
                stop=self.block.stop,
            ),
            key=Key(self.config.seed, exam_set, "evaluate"),
        )
        if file is not None:
            measured.save(file)
        return measured

    def _examples(self, name: ExamSet) -> list[Example]:
        spec = getattr(self.block, name)
        if spec is None:
            return []
        return load_examples(self.config.data_of(spec), base=self.config.base, seed=self.config.seed)[0]
