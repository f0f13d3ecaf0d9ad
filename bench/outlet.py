"""What a command says, where perhaps nobody can hear it: on a full disk, in a terminal that is gone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TextIO

from bench import BenchError


class _Outlet:
    """A text stream in all but how it is written to."""

    buffer = None  # where the encoding is ASCII, click would write to that of the stream, past all below

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Asides(_Outlet):
    """For what is said by the way: where it cannot be written it is lost, and the work goes on."""

    def write(self, text: str) -> int:
        """As of any stream."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As of any stream."""
        with contextlib.suppress(OSError):
            self._stream.flush()


class Answers(_Outlet):
    """For what was asked for: where it cannot be written, writing and flushing raise a BenchError.

    Where its reader has left, as `head` does, they raise BrokenPipeError, which click ends a command by.
    """

    def write(self, text: str) -> int:
        """As of any stream."""
        if text == "":  # so click asks what the stream is, and takes no error for an answer
            return 0
        with self._heard():
            return self._stream.write(text)

    def flush(self) -> None:
        """As of any stream."""
        with self._heard():
            self._stream.flush()

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # or Python would try again at its end
            os.close(nowhere)
            raise BenchError(
                f"cannot write the answer: {error.strerror}", "write it to another disk, or to a terminal"
            ) from error
