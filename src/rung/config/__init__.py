"""The config: a path of stages in YAML, which is read, merged, validated and completed with defaults by model size."""

from rung.config.defaults import resolve
from rung.config.load import find_config, load_config, parse_config, shipped_configs
from rung.config.schema import (
    Adapter,
    EarlyStopping,
    EvaluateConfig,
    PathConfig,
    RolloutConfig,
    StageConfig,
    TokenBatch,
    UpdatesConfig,
)

__all__ = [
    "Adapter",
    "EarlyStopping",
    "EvaluateConfig",
    "PathConfig",
    "RolloutConfig",
    "StageConfig",
    "TokenBatch",
    "UpdatesConfig",
    "find_config",
    "load_config",
    "parse_config",
    "resolve",
    "shipped_configs",
]
