"""Keys that are spelled otherwise elsewhere, and what stands for them here."""

from __future__ import annotations

from collections.abc import Collection

from rung.registry import hint

_SAMPLER = "nothing: completions are sampled by this engine"
_ADAPTER = "`adapter: {lora: {r: 16, ...}}`"
_PACKING = "nothing: rows are packed in the forward pass where that costs less"

# What TRL and older scripts write, and what is written here. Left: one key; right: what stands for it.
OLD = {
    "per_device_train_batch_size": "`batch_size`, over all devices",
    "per_device_eval_batch_size": "nothing: the sampler sizes its own batches",
    "gradient_accumulation_steps": "`batch_size`; parts are cut to `token_budget`",
    "generation_batch_size": "`rollout.batch_size`, in prompts",
    "steps_per_generation": "`updates.minibatches`",
    "num_mini_batches": "`updates.minibatches`",
    "num_iterations": "`updates.epochs`",
    "num_ppo_epochs": "`updates.epochs`",
    "ppo_epochs": "`updates.epochs`",
    "reward_funcs": "`rewards: [{name, weight, role, args}]`",
    "reward_weights": "`weight`, beside each of `rewards`",
    "bf16": "nothing: everything runs in fp32",
    "fp16": "nothing: everything runs in fp32",
    "use_cpu": "nothing: a GPU is used where there is one",
    "ref_model": "`reference: start | <stage>`",
    "sync_ref_model": "`reference: start | <stage>`",
    "ref_model_mixup_alpha": "`reference: start | <stage>`",
    "ref_model_sync_steps": "`reference: start | <stage>`",
    "peft_config": _ADAPTER,
    "use_peft": _ADAPTER,
    "lora_r": _ADAPTER,
    "lora_alpha": _ADAPTER,
    "lora_dropout": "nothing: dropout is off in every forward pass",
    "lora_target_modules": _ADAPTER,
    "use_vllm": _SAMPLER,
    "vllm_mode": _SAMPLER,
    "vllm_gpu_memory_utilization": _SAMPLER,
    "vllm_importance_sampling_cap": _SAMPLER,
    "report_to": "`trackers: [jsonl, wandb]`",
    "tokenizer": "`model`: the tokenizer and its chat template lie beside the weights",
    "processing_class": "`model`: the tokenizer and its chat template lie beside the weights",
    "model_name_or_path": "`model`",
    "max_seq_length": "`max_length`",
    "packing": _PACKING,
    "packing_strategy": _PACKING,
    "padding_free": _PACKING,
    "init_kl_coef": "`beta`, inside `algorithm`",
    "kl_coef": "`beta`, inside `algorithm`",
    "cliprange": "`epsilon`, inside `algorithm`",
    "max_completion_length": "`rollout.max_completion_length`",
    "max_new_tokens": "`rollout.max_completion_length`",
    "response_length": "`rollout.max_completion_length`",
    "temperature": "`rollout.temperature`",
    "top_p": "`rollout.top_p`",
    "top_k": "`rollout.top_k`",
    "min_p": "`rollout.min_p`",
    "warmup_ratio": "`warmup_steps`",
    "train_dataset": "`data`",
    "dataset_name": "`data`",
    "eval_dataset": "`evaluate.validation`",
    "output_dir": "`output`, the folder of all runs, and `name`",
    "run_name": "`name`",
    "logging_steps": "nothing: every step is logged",
}


def successor(key: str, known: Collection[str]) -> str:
    """What to write in place of an unknown key: its successor where it is an old spelling, else the nearest known one.

    >>> successor("num_iterations", [])
    'write `updates.epochs`'
    """
    written = OLD.get(key)
    if written is None:
        return hint(key, known)
    needless = written.removeprefix("nothing: ")
    return f"write {written}" if needless == written else f"leave it out: {needless}"
