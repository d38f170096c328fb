"""What a model is called: prefixes, the files that mark a folder, and whether the hub has an id."""

from __future__ import annotations

from functools import cache

from rung.errors import ConfigError

TINY = "tiny:"
MODEL, ADAPTER = "config.json", "adapter_config.json"  # what a folder with a model, or with an adapter, holds
REMEDY = "name a folder with config.json, a hub id, `run:NAME/stage`, or one of `rung list models`"
_TIMEOUT_S = 30


@cache
def check_hub(name: str) -> None:
    """Raises ConfigError where the hub has no model of that id, or cannot be asked and left no copy here.

    Loading would find out too, after a minute of asking again.
    """
    from huggingface_hub import model_info, try_to_load_from_cache

    try:
        if not isinstance(try_to_load_from_cache(name, MODEL), str):
            model_info(name, timeout=_TIMEOUT_S)
    except Exception as error:  # of an HTTP library that is the hub client's own choice
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"model `{name}` is no folder here, and not found on the hub: {reason}", REMEDY) from None
