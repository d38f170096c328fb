"""Names of models: prefixes, the files that identify a model folder, and the check whether the hub has an id."""

from __future__ import annotations

from functools import cache

from rung.errors import ConfigError

TINY = "tiny:"
MODEL, ADAPTER = "config.json", "adapter_config.json"  # files that identify a model or adapter folder
REMEDY = "name a folder with config.json, a hub id, `run:NAME/stage`, or one of `rung list models`"
_TIMEOUT_S = 30


@cache
def check_hub(name: str) -> None:
    """Raises ConfigError if the hub has no model with that id, or is unreachable and there is no local copy.

    Loading would fail too, but only after a minute of retries.
    """
    from huggingface_hub import model_info, try_to_load_from_cache

    try:
        if not isinstance(try_to_load_from_cache(name, MODEL), str):
            model_info(name, timeout=_TIMEOUT_S)
    except Exception as error:  # its class depends on the HTTP library of the hub client
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"model `{name}` is not a local folder, and not found on the hub: {reason}", REMEDY) from None
