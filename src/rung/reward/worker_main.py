"""The program of the worker process: loads rewards, calls them, and replies in JSON.

Run as `python -P -m rung.reward.worker_main`.
"""

from __future__ import annotations

import json
import numbers
import os
import queue
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rung.reward.call import call
from rung.reward.decorator import Verdict
from rung.reward.guard import restored_process
from rung.reward.outcome import Outcome, raised
from rung.reward.registry import reward_function
from rung.reward.returned import copied
from rung.reward.signature import read_settings, read_signature
from rung.reward.trainer_state import TrainerState


@dataclass(frozen=True, slots=True)
class _Loaded:
    function: Callable[..., Any]
    settings: dict[str, Any]
    hooks: tuple[str, ...]


def _load(request: dict[str, Any]) -> _Loaded:
    base = request["base"]
    function = reward_function(request["name"], Path(base) if base else None)
    signature = read_signature(function, request["name"], request["args"], request["columns"])
    return _Loaded(function, read_settings(signature, request["name"], request["args"]), signature.hooks)


def _as_json(value: object) -> object:
    if isinstance(value, Verdict):
        return {"verdict": asdict(value)}
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"returned a {type(value).__name__}, which JSON cannot represent")


def _answer(loaded: dict[str, _Loaded], request: dict[str, Any]) -> bytes:
    try:
        return json.dumps(_handle(loaded, request), default=_as_json).encode()
    except Exception as error:
        return json.dumps({"error": asdict(raised(error))}).encode()


def _handle(loaded: dict[str, _Loaded], request: dict[str, Any]) -> dict[str, Any]:
    if request["op"] == "load":
        loaded[request["key"]] = _load(request)
        return {}
    entry = loaded[request["key"]]
    arguments = {**request["arguments"], **copied(entry.settings)}
    with restored_process():
        reply = call(entry.function, entry.hooks, arguments, TrainerState(**request["state"]))
    if isinstance(reply, Outcome):
        return {"error": asdict(reply)}
    return {"returned": reply.returned, "columns": reply.columns, "metrics": reply.metrics}


def _read_requests(stream: BinaryIO, requests: queue.SimpleQueue[dict[str, Any]]) -> None:
    while len(header := stream.read(4)) == 4:
        requests.put(json.loads(stream.read(struct.unpack(">I", header)[0])))
    os._exit(0)  # the trainer has exited, and a reward may hang


def main() -> None:
    """Answers requests from standard input on standard output, until standard input is closed."""
    requests_stream, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)  # a reward that reads input or prints must not take or corrupt messages
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests_stream, requests), daemon=True).start()
    loaded: dict[str, _Loaded] = {}
    while True:
        payload = _answer(loaded, requests.get())
        answers.write(struct.pack(">I", len(payload)) + payload)
        answers.flush()


if __name__ == "__main__":
    main()
