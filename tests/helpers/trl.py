"""TRL 1.16's own losses: its unbound methods run on a stub that carries only what they read.

TRL aligns with `input_ids`: a column of one prompt token stands before ours.
"""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from rung.algorithms.dpo import DPO
from rung.algorithms.grpo import GRPO
from rung.batch import Batch


def same(value: Any, *_: Any, **__: Any) -> Any:
    """What a collective of one process gives back."""
    return value


class Untouched(torch.nn.Module):
    """A model of which only this flag is read."""

    is_gradient_checkpointing = False


def trl_stub(**more: Any) -> Any:
    """What TRL's losses read of a trainer, and what else a test gives."""
    ranks = SimpleNamespace(
        num_processes=1, device="cpu", gather=same, reduce=same, gather_for_metrics=same, parallelism_config=None
    )
    return SimpleNamespace(
        accelerator=ranks,
        model=Untouched(),
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **more,
    )


def trl_grpo(
    batch: Batch, loss_type: str, algorithm: GRPO, *, by_token: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss of TRL's GRPO trainer for a batch, as a function of its log-probs; `by_token` has advantages a token."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    # One advantage a row: there TRL's `sequence` is `sequence_token` too, in value and gradient.
    level = "token" if algorithm.importance_sampling_level == "token" else "sequence"
    rows = torch.ones(batch.num_rows, 1, dtype=torch.long)
    assert batch.advantages is not None
    advantages = batch.advantages if by_token else batch.advantages[:, 0]

    def loss(logps: torch.Tensor) -> torch.Tensor:
        me = trl_stub(
            _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
            loss_type=loss_type,
            importance_sampling_level=level,
            epsilon_low=algorithm.epsilon,
            epsilon_high=algorithm.upper,
            beta=algorithm.beta,
            max_completion_length=batch.max_completion_length,
            current_gradient_accumulation_steps=1,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            _entropy_bonus_enabled=False,
            args=SimpleNamespace(delta=algorithm.delta, use_bias_correction_kl=True, steps_per_generation=1),
        )
        inputs = {
            "prompt_ids": rows,
            "prompt_mask": rows,
            "completion_ids": batch.completion_ids,
            "completion_mask": batch.loss_mask.long(),
            "advantages": advantages,
            "old_per_token_logps": batch.old_logps,
            "ref_per_token_logps": batch.ref_logps,
            "num_items_in_batch": batch.loss_mask.sum(),
        }
        return GRPOTrainer._compute_loss(me, None, inputs)

    return loss


def by_side(tensor: torch.Tensor) -> torch.Tensor:
    """The rows in TRL's order: all chosen ones, then all rejected ones."""
    return torch.cat([tensor[::2], tensor[1::2]])


def trl_dpo(
    batch: Batch, algorithm: DPO, log_sum_sq_probs: torch.Tensor | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss of TRL's DPO trainer for a batch of pairs, as a function of its log-probs."""
    from trl.trainer.dpo_trainer import DPOTrainer

    mask = by_side(batch.loss_mask).long()
    assert batch.ref_logps is not None
    ref = by_side(batch.ref_logps) * mask
    kinds = [algorithm.loss_type] if isinstance(algorithm.loss_type, str) else list(algorithm.loss_type)

    def loss(logps: torch.Tensor) -> torch.Tensor:
        log_probs = by_side(logps) * mask
        nothing = torch.zeros_like(log_probs)

        def model(**_: Any) -> Any:
            return SimpleNamespace(
                log_probs=log_probs,
                entropy=nothing,
                mean_logits=nothing,
                is_top1=nothing.bool(),
                log_sum_sq_probs=None if log_sum_sq_probs is None else by_side(log_sum_sq_probs),
            )

        me = trl_stub(
            ld_alpha=algorithm.ld_alpha,
            precompute_ref_logps=False,
            ref_model=lambda **_: SimpleNamespace(log_probs=ref),
            f_divergence_type=algorithm.f_divergence_type,
            f_alpha_divergence_coef=algorithm.f_alpha_divergence_coef,
            loss_types=kinds,
            loss_weights=list(algorithm.loss_weights or [1.0] * len(kinds)),
            beta=algorithm.beta,
            label_smoothing=algorithm.label_smoothing,
            use_weighting=algorithm.use_weighting,
            args=SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=algorithm.discopop_tau),
        )
        ones = torch.ones(len(mask), 1, dtype=torch.long)
        inputs = {
            "input_ids": torch.cat([ones, by_side(batch.completion_ids)], 1),
            "attention_mask": torch.cat([ones, mask], 1),
            "completion_mask": torch.cat([0 * ones, mask], 1),
        }
        return DPOTrainer._compute_loss(me, model, inputs, False)

    return loss
