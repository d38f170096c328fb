"""What a user did wrong, in two lines: what it is (file, row, key) and what to do."""


class UserError(ValueError):
    """A mistake in something that a user wrote; the command prints it in two lines and exits with 2.

    >>> print(UserError("data.jsonl, row 7: `prompt` is empty", "fill it, or set `on_bad: skip`"))
    data.jsonl, row 7: `prompt` is empty
    fill it, or set `on_bad: skip`
    """

    def __init__(self, what: str, remedy: str):
        super().__init__(f"{what}\n{remedy}")
        self.what = what
        self.remedy = remedy


class ConfigError(UserError):
    """A config key, value or combination that cannot work."""


class DataError(UserError):
    """A file or row that cannot be used."""


class RewardError(UserError):
    """A reward that cannot be called, or that fails too often to train on."""


class SamplingError(UserError):
    """Sampling that cannot go on, such as prompts that never give a group worth training on."""


class CheckpointError(UserError):
    """A checkpoint or run folder that cannot be read or written."""
