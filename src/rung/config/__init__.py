"""The config of a path (a sequence of stages): YAML that is read, merged, validated and completed with defaults."""

from rung.config.blocks import Adapter, EarlyStopping, RolloutConfig, TokenBatch, UpdatesConfig
from rung.config.defaults import resolve
from rung.config.load import find_config, load_config, parse_config, shipped_configs
from rung.config.schema import EvaluateConfig, PathConfig, StageConfig

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
