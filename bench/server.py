"""Processes that have torch, forked from a server that imported it once.

Whoever asks never imports torch itself. Each question is answered by a process of its own: it costs no
import, and what it did to torch, a CUDA context included, is gone with it.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from types import FrameType
from typing import Any, NoReturn

from bench import INTERRUPTED, STOPS, BenchError

# Has train(job, tell), facts(device, devices), examine(device, devices), ready(job), the exception
# Interrupted, find_weights(backbone, weights, place), and excuse(seat, why).
TRAINER = "bench.train"
END_S = 10.0  # how long a process may take over its end that nobody waits for any more
TICK_S = 0.25


def start(trainer: str) -> ForkServerContext:
    """A server that has imported the trainer, and from which processes are forked.

    It and its children are born with the stop signals blocked, so that Ctrl-C, which a terminal sends to all
    of them, cannot hit one before it is ready; `open_signals` opens them. click is imported beforehand
    because the console script, whose body multiprocessing runs again in each child, imports it.
    BenchError: there is no place for its socket.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.gc_off", trainer, "click", "bench.gc_on"])
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    resource_tracker.ensure_running()  # which opens some of them again
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        forkserver.ensure_running()
    except OSError as error:
        raise BenchError(
            f"cannot make a socket in the folder of temporary files: {error}",
            "name a folder with a short path that you may write, as in TMPDIR=/tmp segbench ...",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    return context


def ask(
    context: ForkServerContext,
    trainer: str,
    what: str,
    *about: Any,
    wait: Callable[[], None] = lambda: None,
) -> Any:
    """What the function `what` of the trainer says, from a process that has torch.

    `wait` is called a few times a second meanwhile; what it raises ends the question. BenchError: the answer,
    or torch does not load.
    """
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(trainer, what, about, send))
    try:
        process.start()
    except (EOFError, ConnectionError) as error:  # the server died of its import
        raise _unloadable("see the message above") from error
    send.close()
    try:
        with receive:
            while not receive.poll(TICK_S):
                wait()
            answer = receive.recv()
    except EOFError:
        wait()  # who said stop at a terminal said it to the process, too
        raise RuntimeError(f"{trainer} did not answer ({what}): see its message above") from None
    finally:
        if sys.exc_info()[0] is not None:
            process.terminate()  # so that it tidies up what it was fetching
            process.join(END_S)
            process.kill()
        process.join()
    if isinstance(answer, BenchError):
        raise answer
    return answer


def _answer(trainer: str, what: str, about: tuple[Any, ...], send: Connection) -> None:
    """The body of a process that is asked something."""
    open_signals(leave)
    answer: Any
    try:
        module = importlib.import_module(trainer)
    except (ImportError, OSError, RuntimeError) as error:  # what torch and torchvision say to each other
        module, answer = None, _unloadable(str(error))
    if module is not None:
        try:
            answer = getattr(module, what)(*about)
        except BenchError as error:
            answer = error
    with contextlib.suppress(OSError):  # nobody waits for it any more
        send.send(answer)


def _unloadable(why: str) -> BenchError:
    return BenchError(
        f"torch or torchvision does not load: {why}",
        "install versions that belong together: pip install --force-reinstall torch torchvision",
    )


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """A handler of signals: end as one who was asked to stop."""
    sys.exit(INTERRUPTED)


def open_signals(handler: Any) -> None:
    """Let the stop signals through that a process of the server is born without, to `handler`."""
    for number in STOPS:
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
