"""The evaluations of a path, with the same items, metrics, shots and decoding for every model."""

from __future__ import annotations

import inspect
import os
from contextlib import closing, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from rung.artifacts.finished import verified
from rung.artifacts.reward_models import locate_reward_models
from rung.artifacts.start import model_hash
from rung.data.load import load_examples
from rung.data.prompting import Prompting
from rung.data.records import Example, as_prompt
from rung.data.spec import renamed_columns
from rung.data.splits import sample
from rung.data.templates import LIMITS
from rung.errors import CheckpointError, ConfigError, error_context
from rung.evaluation.evaluate import Evaluation, built_in_goals, check_items, evaluate, items_digest
from rung.evaluation.fewshot import encode_question
from rung.models.load import load_model, num_positions, to_device
from rung.models.stops import stop_ids
from rung.pipeline.agents import build_agent, check_agent
from rung.pipeline.stage_settings import toolbox_of
from rung.reward import RewardPolicy, RewardSet
from rung.rollout.philox import Key
from rung.rollout.samplers import SAMPLERS, LocalSampler
from rung.sampling import Sampling
from rung.training.rng_state import seed_all
from rung.utils.console import note, progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rung.config import PathConfig
    from rung.data.mixtures import Mixture
    from rung.reward.decorator import Goal

EvaluationSet = Literal["validation", "test"]
REMEDY = "fix or remove these rows: an evaluation reads every row of the file, whatever `on_bad_row` of a stage says"
SETS: tuple[EvaluationSet, ...] = ("validation", "test")


class Evaluations:
    """Evaluates models as the block `evaluate` of a resolved config says; the data are read on first use.

    Raises UserError, naming key, file or row, if the data, the metrics or the shots are missing or cannot be used.
    """

    def __init__(self, config: PathConfig):
        self.config = config
        self.block = config.evaluate
        metrics = locate_reward_models(self.block.metrics, config, None)
        with error_context("`evaluate.metrics`"):
            policy = RewardPolicy(timeout_s=config.reward_policy.timeout_s)
            self.toolbox = toolbox_of(self.block, config.base, "`evaluate`")
            self.metrics = RewardSet(metrics, policy, config.base, trajectories=bool(self.toolbox))

    @property
    def goals(self) -> dict[str, Goal]:
        """The goal of every metric of an evaluation: `max` if higher is better, `min` if lower is better."""
        return {**self.metrics.goals, **built_in_goals(bool(self.toolbox))}

    @cached_property
    def validation(self) -> list[Example]:
        """The validation items, on which gates decide; empty if the config has no validation set."""
        return self._examples("validation")

    @cached_property
    def test(self) -> list[Example]:
        """The test items, which are used once after the last stage; empty if the config has no test set."""
        return self._examples("test")

    def items(self, evaluation_set: EvaluationSet) -> list[Example]:
        """The items of an evaluation set; empty if the config does not have this set."""
        return self.validation if evaluation_set == "validation" else self.test

    @cached_property
    def _shots_from(self) -> list[Example]:
        if self.block.shots_from is None:
            what = "`shots` is above 0, but `evaluate.shots_from` is not set"
            raise ConfigError(what, "set it to data with completions, such as the training data")
        data = self.config.data_of(self.block.shots_from)
        return self._load(data)

    def shots(self, count: int) -> list[Example]:
        """`count` few-shot examples, which include those of every smaller count.

        Raises ConfigError if `evaluate.shots_from` has fewer examples or is not set.
        """
        if count == 0:
            return []
        if count > len(self._shots_from):
            what = f"`shots` is {count}, but `evaluate.shots_from` has only {len(self._shots_from)} examples"
            raise ConfigError(what, "lower `shots`, or set `evaluate.shots_from` to more data")
        return sample(self._shots_from, count, self.config.seed)

    def item_hashes(self) -> dict[str, str]:
        """The number of items and a hash of their contents, by `validation`, `test` and `shots`, as far as they exist.

        Items include the way in which they are asked.
        """
        most = max(num for stage in self.config.stages for num in (*self.config.shots_of(stage), *self.block.shots))
        sets = {"validation": self.validation, "test": self.test, "shots": self.shots(most)}
        return {name: f"{len(examples)} items {items_digest(examples)}" for name, examples in sets.items() if examples}

    def files(self) -> set[str]:
        """The files of the metrics, relative to the folder of the config."""
        functions = (inspect.unwrap(reward.function) for reward in self.metrics.rewards)
        codes = (getattr(function, "__code__", None) for function in functions)
        base = self.config.base.resolve()
        return {Path(os.path.relpath(code.co_filename, base)).as_posix() for code in codes if code is not None}

    def check(self) -> None:
        """Raises UserError if a metric reads a missing column, or if there are metrics but no validation set."""
        SAMPLERS.find(self.block.sampler, self.config.base)
        for evaluation_set in SETS:
            examples = self.items(evaluation_set)
            if examples:
                columns = set.intersection(*(set(as_prompt(example).columns) for example in examples))
                self.metrics.check(columns, renamed_columns(self._data(evaluation_set)))
            elif evaluation_set == "validation" and self.block.metrics:
                what = "`evaluate.metrics` is set without `evaluate.validation`"
                raise ConfigError(what, "set `evaluate.validation` to the data to evaluate on")

    def check_set(self, evaluation_set: EvaluationSet) -> None:
        """Raises ConfigError if the config has no items for an evaluation set."""
        if not self.items(evaluation_set):
            what = f"`evaluate.{evaluation_set}` has no items"
            raise ConfigError(what, f"set it in the config, or by the override evaluate.{evaluation_set}=...")

    def check_prompts(
        self,
        evaluation_set: EvaluationSet,
        num_shots: int,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> int:
        """The number of tokens of the longest prompt of an item with `num_shots` shots.

        Raises UserError, naming the row, for an item whose prompt does not fit the model.
        """
        examples, shots = self.items(evaluation_set), self.shots(num_shots)
        check_items(examples, shots)
        if num_shots and self.toolbox.environments is not None:
            what = f"`shots: {num_shots}` and `environment_factory` cannot be combined: examples have no environment"
            raise ConfigError(what, "set `shots: [0]`")
        with error_context("`evaluate`"):
            check_agent(self.toolbox, model, tokenizer, SAMPLERS.find(self.block.sampler, self.config.base))
        positions = num_positions(model)
        with LIMITS:
            lengths = [len(encode_question(example, shots, tokenizer)) for example in examples]
        for example, num_tokens in zip(examples, lengths, strict=True):
            if positions is not None and num_tokens + self.max_completion_length > positions:
                what = (
                    f"{example.place}: {num_tokens} prompt tokens with {num_shots} shots and "
                    f"{self.max_completion_length} completion tokens exceed the model's {positions} positions"
                )
                raise ConfigError(what, "lower `evaluate.max_completion_length` or `shots`, or remove the row")
        return max(lengths)

    @property
    def max_completion_length(self) -> int:
        """The longest completion in tokens."""
        assert isinstance(self.block.max_completion_length, int), "the config is resolved"
        return self.block.max_completion_length

    def evaluate(
        self,
        location: str,
        evaluation_set: EvaluationSet,
        num_shots: int,
        file: Path | None = None,
        *,
        label: str = "",
    ) -> Evaluation:
        """Evaluates a model on an evaluation set with `num_shots` shots, and shows progress under `label` if it is set.

        If `file` exists and is undamaged, the evaluation is read from it instead; otherwise the result is saved there.
        """
        known = model_hash(verified(location))
        if file is not None and file.exists():
            found = self._saved(file, evaluation_set, known)
            if found is not None:
                return found
        seed_all(self.config.seed)  # for metrics that draw
        shots = self.shots(num_shots)
        model, tokenizer = load_model(location, seed=self.config.seed)
        self.check_prompts(evaluation_set, num_shots, model, tokenizer)
        make_sampler = SAMPLERS.find(self.block.sampler, self.config.base)
        sampler = make_sampler(to_device(model), tokenizer, training_dtype=torch.float32)
        items = self.items(evaluation_set)
        agent = build_agent(self.toolbox, sampler, tokenizer, stop_ids(model, tokenizer))
        shown = progress(len(items), f"{label}: {evaluation_set}") if label else nullcontext()
        with shown as show, closing(agent) if agent else nullcontext():
            if show is not None and isinstance(sampler, LocalSampler):
                sampler.sampled = lambda num_completions: show(num_completions, {})
            measured = evaluate(
                sampler,
                tokenizer,
                items,
                self.metrics,
                shots=shots,
                sampling=Sampling(
                    max_completion_length=self.max_completion_length,
                    temperature=self.block.temperature,
                    stop=self.block.stop,
                    skip_special_tokens=self.block.skip_special_tokens,
                ),
                key=Key(self.config.seed, evaluation_set, "evaluate"),
                agent=agent,
            )
        measured = measured.model_copy(update={"model": known})
        if file is not None:
            measured.save(file)
        return measured

    def _saved(self, file: Path, evaluation_set: EvaluationSet, model: str) -> Evaluation | None:
        """The evaluation in a file; None, with a warning, if it is damaged or of another model or other items."""
        try:
            found = Evaluation.load(file)
        except CheckpointError as error:
            reason = error.what
        else:
            if (found.model, found.measured["items"]) == (model, items_digest(self.items(evaluation_set))):
                return found
            reason = f"{file} belongs to another model or other items"
        note(f"warning: {reason}; the model is evaluated again")
        return None

    def _examples(self, evaluation_set: EvaluationSet) -> list[Example]:
        data = self._data(evaluation_set)
        return [] if data is None else self._load(data)

    def _data(self, evaluation_set: EvaluationSet) -> str | dict[str, Any] | Mixture | None:
        spec = self.block.validation if evaluation_set == "validation" else self.block.test
        return None if spec is None else self.config.data_of(spec)

    def _load(self, data: str | dict[str, Any] | Mixture) -> list[Example]:
        examples, _ = load_examples(data, base=self.config.base, seed=self.config.seed, remedy=REMEDY)
        prompting = Prompting(self.config.prompt_template, self.config.system)
        return [self.toolbox.offered(prompting.asked(example)) for example in examples]
