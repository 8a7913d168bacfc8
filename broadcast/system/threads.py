"""Calls in threads that the interpreter does not join at exit, which they would delay."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def call_in_thread(work: Callable[..., T], *arguments: Any) -> Future[T]:
    """Call in a daemon thread; the future gets the result or the exception."""
    future: Future[T] = Future()
    threading.Thread(target=complete, args=(future, work, *arguments), daemon=True).start()
    return future


def complete(future: Future[T], work: Callable[..., T], *arguments: Any) -> None:
    """Make a call and give its result or its exception to a future, unless that is cancelled."""
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work(*arguments))
        except BaseException as problem:  # otherwise the caller would wait for ever
            future.set_exception(problem)
