"""One step of any algorithm: a batch as its source would hand it over, a policy, and the weights after it."""

from copy import deepcopy
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from helpers.batches import random_batch
from helpers.policies import gradient, tiny_policy
from rung.algorithm import Algorithm
from rung.algorithms.cispo import CISPO
from rung.algorithms.cpo import CPO
from rung.algorithms.dapo import DAPO
from rung.algorithms.distill import Distill
from rung.algorithms.dpo import DPO
from rung.algorithms.gmpo import GMPO
from rung.algorithms.grpo import GRPO, DrGRPO
from rung.algorithms.gspo import GSPO, LUSPO, GSPOToken
from rung.algorithms.kto import KTO
from rung.algorithms.orpo import ORPO
from rung.algorithms.ppo import PPO
from rung.algorithms.reinforce_pp import ReinforcePP, ReinforcePPBaseline
from rung.algorithms.reward_model import RewardModel
from rung.algorithms.rloo import RLOO
from rung.algorithms.sapo import SAPO
from rung.algorithms.sft import SFT
from rung.algorithms.simpo import SimPO
from rung.algorithms.vespo import VESPO
from rung.batch import Batch, concat
from rung.distributed.ranks import Ranks
from rung.forward.policy import Policy
from rung.training.loop import steps

ALGORITHMS: dict[str, Algorithm] = {
    "sft": SFT(),
    "dft": SFT(loss_type="dft"),
    "dpo": DPO(),
    "dpo+sft": DPO(loss_type=("sigmoid", "sft"), loss_weights=(1.0, 0.5)),
    "ipo": DPO(loss_type="ipo"),
    "hinge": DPO(loss_type="hinge"),
    "exo": DPO(loss_type=("exo_pair", "robust"), label_smoothing=0.01, f_divergence_type="js_divergence"),
    "weighted": DPO(loss_type=("nca_pair", "apo_down", "sft"), ld_alpha=0.5, use_weighting=True),
    "kto": KTO(desirable_weight=1.3),
    "orpo": ORPO(),
    "simpo": SimPO(),
    "cpo": CPO(),
    "grpo": GRPO(),
    "dr_grpo": DrGRPO(),
    "dapo": DAPO(),
    "gspo": GSPO(epsilon=0.01, epsilon_high=0.01),
    "gspo_token": GSPOToken(beta=0.04),
    "masked": GRPO(
        kl_estimator="k3",
        importance_sampling_correction="token_truncate",
        off_policy_mask_threshold=0.1,
        top_entropy_quantile=0.4,
        entropy_coef=0.1,
    ),
    "gdpo": GRPO(beta=0, multi_objective_aggregation="normalize_then_sum", entropy_coef=0.1),
    "luspo": LUSPO(epsilon=0.01, epsilon_high=0.01),
    "rloo": RLOO(),
    "cispo": CISPO(epsilon_high=1.1, beta=0.04, kl_estimator="k3"),
    "sapo": SAPO(),
    "vespo": VESPO(),
    "gmpo": GMPO(epsilon=0.05),
    "reinforce_pp": ReinforcePP(),
    "reinforce_pp_baseline": ReinforcePPBaseline(),
    "ppo": PPO(whiten_rewards=True),
    "reward_model": RewardModel(center_rewards_coefficient=0.01),
    "distill": Distill(),
    "distill_jsd": Distill(completions="data", beta=0.3),
}


def step_batch(algorithm: Algorithm, seed: int = 0) -> Batch:
    """A batch as its source would hand it over, with reference and old log-probs that differ from the policy's."""
    generator = torch.Generator().manual_seed(seed)
    pairs = algorithm.group_size == 2
    batch = random_batch(generator, prompts=4, rows=(1, 3) if pairs else (2, 5), group=2 if pairs else None)
    noise = torch.randn(batch.completion_ids.shape, generator=generator)
    batch = replace(
        batch,
        max_completion_length=20,
        old_logps=(-5.5 + 0.1 * noise) * batch.loss_mask,
        ref_logps=(-5.4 + 0.2 * noise) * batch.loss_mask,
        rewards=torch.randint(0, 2, (batch.num_rows,), generator=generator).float(),
        values=0.3 * noise * batch.loss_mask,
        reward_weights={"a": 1.0, "b": -0.5},
        extras={
            "label": torch.rand(batch.num_rows, generator=generator) < 0.5,
            "reward/a": torch.randn(batch.num_rows, generator=generator),
            "reward/b": torch.randn(batch.num_rows, generator=generator),
            "entropies": torch.rand(noise.shape, generator=generator),
            "sampled_logps": -5.4 + 0.1 * torch.randn(noise.shape, generator=generator),
        },
    )
    return algorithm.credit(batch, {})[0] if algorithm.data_kind() == "prompts" else batch


def policy_for(algorithm: Algorithm) -> Policy:
    """A policy with random heads where the algorithm needs them; values come from a critic of its own.

    A reference that is read beyond the log-probs that the batch has is another random model, and so is a teacher.
    """
    policy = tiny_policy("llama", heads=bool({"values", "score_head"} & algorithm.needs()))
    if "values" in algorithm.needs():
        policy.critic = deepcopy(policy.model)
    if algorithm.data_kind() == "unpaired":
        policy.reference = with_other_weights(policy.snapshot())
    if "teacher" in algorithm.needs():
        policy.teacher = with_other_weights(policy.snapshot())
    return policy


@torch.no_grad()
def with_other_weights(model: PreTrainedModel) -> PreTrainedModel:
    """The model with other weights."""
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


def after_one_step(
    algorithm: Algorithm, batch: Batch, *, token_budget: int = 10_000
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of one step and the parameters after it, by plain SGD."""
    policy = policy_for(algorithm)
    policy.token_budget = token_budget
    batch = algorithm.prepare(batch, policy)
    optimizer = torch.optim.SGD(policy.parameters, lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    next(steps(policy, algorithm, [batch], optimizer, schedule, ranks=Ranks(), max_grad_norm=1e9))
    return gradient(policy), torch.cat([p.detach().flatten().double() for p in policy.parameters])


def permuted(batch: Batch) -> Batch:
    """The prompts in reverse order, the rows of each as they were."""
    pieces = [batch.select(batch.prompt_of == prompt) for prompt in range(batch.num_prompts)]
    return concat(pieces[::-1])


def padded(batch: Batch) -> Batch:
    """More padding on both sides, with rubbish under it."""
    extra = {
        name: torch.nn.functional.pad(getattr(batch, name), (0, 5), value=value)
        for name, value in {"completion_ids": 77, "completion_mask": False, "loss_mask": False}.items()
    }
    floats = {
        name: torch.nn.functional.pad(tensor, (0, 5), value=float("nan"))
        for name in ("old_logps", "ref_logps", "advantages", "values", "returns")
        if (tensor := getattr(batch, name)) is not None
    }
    extras = {
        name: torch.nn.functional.pad(tensor, (0, 5), value=True if tensor.dtype == torch.bool else float("nan"))
        for name, tensor in batch.extras.items()
        if tensor.dim() > 1
    }
    prompts = {
        "prompt_ids": torch.nn.functional.pad(batch.prompt_ids, (3, 0), value=77),
        "prompt_mask": torch.nn.functional.pad(batch.prompt_mask, (3, 0), value=False),
    }
    return replace(batch, **extra, **floats, **prompts).replace_extras(**extras)
