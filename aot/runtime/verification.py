"""Whether weights are those that the index names: found out beside serving, where it is not known yet."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal

from aot.bundle import store, verified
from aot.bundle.store import Bundle
from aot.errors import InputError

Verify = Literal["always", "once", "never"]
"""When weights are checked against their digests."""


class Verification:
    """The check of a bundle's weights, as they were mapped, by a policy. May be used from several threads.

    `always` hashes them at once. `once` does so only where this user has not seen these very files verified on this
    machine, and then in a thread that starts when the first token is there. `never` believes them.
    """

    def __init__(self, bundle: Bundle, views: Sequence[memoryview], policy: Verify) -> None:
        self._bundle = bundle
        self._views = {blob.digest: view for blob, view in zip(bundle.index.weights.blobs, views, strict=True)}
        self._files = {name: store.mapped_file(view) for name, view in self._views.items()}
        self._verdict: Future[None] = Future()
        self._lock, self._begun = threading.Lock(), False
        weights = bundle.index.weights
        if policy == "never" or (policy == "once" and verified.known(bundle.path, weights, self._files)):
            self._verdict.set_result(None)
            self._begun, self._views = True, {}
        elif policy == "always":
            self.settle()

    def begin(self) -> None:
        """Starts what there is to check; nothing where that has begun."""
        with self._lock:
            begun, self._begun = self._begun, True
            views, self._views = self._views, {}  # they are the check's, and go with it
        if not begun:
            self._start(views)

    def settle(self) -> None:
        """Waits for the verdict. Raises BundleError for a damaged blob."""
        self.begin()
        if fault := self._verdict.exception():
            raise fault.with_traceback(None)  # else each call would add to it

    def close(self) -> None:
        """Lets go of what was mapped. What has not begun to be checked never will be, and is not known to be whole."""
        with self._lock:
            begun, self._begun = self._begun, True
            self._views = {}
        if not begun:
            cause = "the model was closed before its weights were checked; load it again"
            self._verdict.set_exception(InputError(f"bundle {self._bundle.path}: {cause}"))

    def refuse(self) -> None:
        """Raises BundleError where a blob has been found damaged."""
        if self._verdict.done():
            self.settle()

    def _start(self, views: Mapping[str, memoryview]) -> None:
        try:
            threading.Thread(target=self._check, args=(views,), name="aot-verify", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            self._check(views)

    def _check(self, views: Mapping[str, memoryview]) -> None:
        try:
            for name, view in views.items():
                self._bundle.check(name, view)
            verified.remember(self._bundle.path, self._bundle.index.weights, self._files)
        except BaseException as fault:  # whatever it is, weights are not known to be whole
            self._verdict.set_exception(fault)
        else:
            self._verdict.set_result(None)
