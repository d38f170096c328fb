"""Standard streams that cannot end a run: closed ones are opened, and output that is refused is dropped."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress


class _Raw(io.FileIO):
    """A stream whose writes never fail; the first refusal is told on stderr, unless its reader has gone."""

    refused = False

    def write(self, data) -> int:  # type: ignore[override]
        """Writes bytes, and returns their number even if they were refused."""
        try:
            return super().write(data) or 0
        except BlockingIOError:
            raise
        except OSError as error:
            if not self.refused and error.errno != errno.EPIPE and self.fileno() != 2:
                with suppress(OSError):
                    os.write(2, f"warning: the output is dropped: {error.strerror}\n".encode())
            self.refused = True
            return len(memoryview(data).cast("B"))


def protect_streams() -> None:
    """Opens standard streams that are closed, and makes stdout and stderr accept everything.

    Streams that were replaced, as a test does, stay as they are. Trap: a closed descriptor would be given to the next
    file that is opened, into which prints would then go.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        encoding, errors = getattr(stream, "encoding", None) or "utf-8", getattr(stream, "errors", None) or "replace"
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
        buffered = io.BufferedWriter(_Raw(descriptor, "wb", closefd=False))
        lines = os.isatty(descriptor) or name == "stderr"
        protected = io.TextIOWrapper(buffered, encoding=encoding, errors=errors, line_buffering=lines)
        setattr(sys, name, protected)
        setattr(sys, f"__{name}__", protected)
