"""Weights for what another sampler drew: by hand, as TRL applies them, and through a sampler that is not exact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.group_relative import FAMILY
from helpers.losses import assert_same, batch_and_logps, ours, theirs
from helpers.trl import trl_stub
from rung.algorithms.grpo import GRPO
from rung.algorithms.shared.group_relative import GroupRelative
from rung.algorithms.shared.options import Correction
from rung.batch import Batch, Completion
from rung.data.encode import encode
from rung.data.load import load_examples
from rung.maths.policy_losses import mask_weights, sequence_mismatch, token_mismatch, truncate_weights
from rung.metrics import values
from rung.models.load import load_model
from rung.reward import RewardSet
from rung.rollout.generate import Generator
from rung.rollout.philox import Key
from rung.rollout.samplers import LocalSampler, Prompt
from rung.sampling import Sampling

NAN = float("nan")
MODES: tuple[Correction, ...] = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


@pytest.mark.maths
def test_weights_by_hand() -> None:
    """old - sampler = 1, 0, -1: ratios e, 1, 1/e. Held at 2: 2, 1, .367879; outside [.5, 2] left out: 0, 1, 0.

    A row whose differences add up to 1.2 has e^1.2 = 3.320117: beyond 3 it is left out, or held at 3.
    """
    old = torch.zeros(1, 3, dtype=torch.float64)
    mask = torch.ones(1, 3).bool()
    ratio = token_mismatch(old, torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64), mask)
    torch.testing.assert_close(
        truncate_weights(ratio, 0, 2), torch.tensor([[2.0, 1.0, 0.36787944]], dtype=torch.float64)
    )
    torch.testing.assert_close(mask_weights(ratio, 0.5, 2), torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    row = sequence_mismatch(old, torch.tensor([[-0.5, -0.6, -0.1]], dtype=torch.float64), mask)
    torch.testing.assert_close(row, torch.full((1, 3), 3.320117, dtype=torch.float64), atol=1e-6, rtol=0)
    assert not mask_weights(row, 0, 3).any()
    assert (truncate_weights(row, 0, 3) == 3).all()


@pytest.mark.maths
def test_what_the_sampler_did_not_say_and_what_is_not_trained_weighs_1() -> None:
    """Differences 1 (trained), 5 (a tool's token), NaN: the row's product is e."""
    old = torch.zeros(1, 3, dtype=torch.float64)
    sampled = torch.tensor([[-1.0, -5.0, NAN]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True]])
    e = 2.718281828459045
    assert token_mismatch(old, sampled, mask).tolist() == [[pytest.approx(e), 1, 1]]
    assert sequence_mismatch(old, sampled, mask).tolist() == [[pytest.approx(e)] * 3]


@pytest.mark.maths
def test_a_row_that_drifted_without_bound_stays_finite() -> None:
    old = torch.zeros(1, 2, dtype=torch.float64)
    far = sequence_mismatch(old, torch.full((1, 2), -500.0, dtype=torch.float64), torch.ones(1, 2).bool())
    assert far.tolist() == [[pytest.approx(485165195.40979)] * 2]


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(2))
def test_loss_and_gradient_equal_trl(seed: int, mode: Correction, dtype: torch.dtype) -> None:
    """The objective is weighed and the KL is not; what is left out stays in the denominator."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    batch, logps = batch_and_logps(seed, None, dtype)
    assert batch.old_logps is not None
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(logps.shape, generator=generator, dtype=torch.float64).to(dtype)
    batch = batch.replace_extras(sampled_logps=batch.old_logps + 0.3 * noise)
    algorithm = GRPO(
        importance_sampling_correction=mode, importance_sampling_clip_max=1.2, importance_sampling_clip_min=0.8
    )
    batch = algorithm.credit(batch, {})[0]
    weights = batch.extras["sampler_weights"]
    assert (weights != 1).any()

    def loss(leaf: torch.Tensor) -> torch.Tensor:
        assert batch.advantages is not None
        me = trl_stub(
            _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
            loss_type="grpo",
            importance_sampling_level="token",
            epsilon_low=0.2,
            epsilon_high=0.2,
            beta=algorithm.beta,
            current_gradient_accumulation_steps=1,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            use_vllm=True,
            vllm_importance_sampling_correction=True,
            _entropy_bonus_enabled=False,
            args=SimpleNamespace(delta=None, use_bias_correction_kl=True, steps_per_generation=1),
        )
        rows = torch.ones(batch.num_rows, 1, dtype=torch.long)
        inputs = {
            "prompt_ids": rows,
            "prompt_mask": rows,
            "completion_ids": batch.completion_ids,
            "completion_mask": batch.loss_mask.long(),
            "advantages": batch.advantages[:, 0],
            "old_per_token_logps": batch.old_logps,
            "ref_per_token_logps": batch.ref_logps,
            "importance_sampling_ratio": weights[:, :1] if mode.startswith("sequence") else weights,
        }
        return GRPOTrainer._compute_loss(me, None, inputs)

    assert_same(ours(algorithm, batch, logps), theirs(loss, batch, logps), dtype)


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "vespo"])
@pytest.mark.parametrize("mode", MODES)
def test_a_sampler_that_agrees_changes_nothing(name: str, mode: Correction) -> None:
    batch, logps = batch_and_logps(0, None, torch.float64)
    assert batch.old_logps is not None
    batch = batch.replace_extras(sampled_logps=batch.old_logps)
    corrected = FAMILY[name].model_copy(update={"importance_sampling_correction": mode})
    found = ours(corrected, corrected.credit(batch, {})[0], logps)
    expected = ours(FAMILY[name], FAMILY[name].credit(batch, {})[0], logps)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert "sampled_logps" in corrected.needs()
    assert "sampled_logps" not in FAMILY[name].needs()


@dataclass
class Drifted:
    """The built-in sampler, whose log-probs are told half a nat too low."""

    sampler: LocalSampler

    def sample(
        self, prompts: Sequence[Prompt], k: int, *, visits: Sequence[int], key: Key, sampling: Sampling
    ) -> list[list[Completion]]:
        drawn = self.sampler.sample(prompts, k, visits=visits, key=key, sampling=sampling)
        return [[replace(one, logps=tuple(logp - 0.5 for logp in one.logps)) for one in group] for group in drawn]

    def load(self, weights: Mapping[str, torch.Tensor], version: int) -> None:
        """Nothing to do: it draws from the live model."""

    def exact(self, sampling: Sampling) -> bool:
        return False


def sampled_by(sampler: Any, algorithm: GroupRelative) -> Batch:
    from rung.forward.policy import Policy

    model, tokenizer = load_model("tiny:llama")
    examples, report = load_examples([{"prompt": f"number {i}"} for i in range(3)])
    generator = Generator(
        sampler=sampler(model, tokenizer),
        sampling=Sampling(max_completion_length=5),
        key=Key(seed=0, stage="drift", purpose="rollout"),
        samples=4,
        rewards=RewardSet([lambda completions, **_: [float(len(text)) for text in completions]]),
        tokenizer=tokenizer,
    )
    prompts = encode(examples, tokenizer, max_prompt_length=64, max_length=None, report=report)
    batch = generator(prompts, [0, 1, 2], 0).batch
    return algorithm.credit(algorithm.prepare(batch, Policy(model)), {})[0]


@pytest.mark.maths
def test_the_log_probs_of_a_sampler_that_is_not_exact_are_kept_beside_those_of_the_policy() -> None:
    """Every token is e^.5 = 1.648721 times likelier than that sampler said; its old log-probs are the exact ones."""
    algorithm = GRPO(beta=0, importance_sampling_correction="token_truncate")
    exact = sampled_by(LocalSampler, GRPO(beta=0))
    batch = sampled_by(lambda model, tokenizer: Drifted(LocalSampler(model, tokenizer)), algorithm)
    assert "sampled_logps" not in exact.extras
    assert exact.old_logps is not None
    assert batch.old_logps is not None
    torch.testing.assert_close(batch.old_logps, exact.old_logps * batch.loss_mask, atol=1e-4, rtol=0)
    weights = batch.extras["sampler_weights"][batch.loss_mask]
    torch.testing.assert_close(weights, torch.full_like(weights, 1.648721), atol=1e-3, rtol=0)
    shown = values(algorithm.rollout_metrics(batch, {}))
    assert shown["sampling/sampling_logp_difference/mean"] == pytest.approx(0.5, abs=1e-4)
    assert shown["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.648721, abs=1e-3)
