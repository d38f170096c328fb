"""What the fixtures that call the real command give to a test."""

from collections.abc import Callable

Command = Callable[..., int]
"""`command("check", "path.yaml")` gives the exit code."""
Refusal = Callable[..., list[str]]
"""`refusal("run", "path.yaml")` gives the two lines on stderr."""
