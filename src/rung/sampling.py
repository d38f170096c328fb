"""The sampling settings, one record for the sampler and for the forward pass, which uses the same temperature."""

from __future__ import annotations

from dataclasses import dataclass

from rung.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The settings with which completions are sampled; raises ConfigError for a value out of range."""

    max_completion_length: int  # tokens, EOS included
    temperature: float = 1.0  # 0: greedy decoding
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0: all tokens
    min_p: float = 0.0  # [0, 1], relative to the probability of the most likely token
    stop: tuple[str, ...] = ()  # stop strings; the completion ends with the one that was generated
    skip_special_tokens: bool = True  # in the text of completions that rewards and metrics read

    def __post_init__(self):
        allowed = {
            "max_completion_length": (self.max_completion_length >= 1, "at least 1"),
            "temperature": (0.0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            "top_p": (0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "min_p": (0.0 <= self.min_p <= 1.0, "between 0 and 1"),
            "stop": (all(self.stop), "a list of texts, none of them empty"),
        }
        for name, (valid, range_) in allowed.items():
            if not valid:
                raise ConfigError(f"`{name}`: {getattr(self, name)!r} is out of range", f"`{name}` must be {range_}")

    @property
    def untruncated(self) -> bool:
        """Whether tokens are sampled from the policy's full distribution: no greedy decoding, top-p, top-k or min-p."""
        return self.temperature > 0 and self.top_p == 1.0 and self.top_k == 0 and self.min_p == 0.0
