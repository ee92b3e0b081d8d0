"""Whether weights are those that the index names: found out beside serving, where it is not known yet."""

import threading

from aot.bundle import verified
from aot.bundle.store import Bundle
from aot.errors import AotError

POLICIES = ("always", "once", "never")


class Verification:
    """The check of a bundle's weights by a policy.

    `always` hashes them at once. `once` does so only where this user has not seen these very files verified on this
    machine, and then in a thread that starts when the first token is there. `never` believes them.
    """

    def __init__(self, bundle: Bundle, policy: str) -> None:
        self._bundle = bundle
        self._fault: AotError | None = None
        self._thread: threading.Thread | None = None
        if policy == "always":
            self._check()
            self.refuse()
        elif policy == "once" and not verified.known(bundle.path, bundle.index.weights):
            self._thread = threading.Thread(target=self._check, name="aot-verify", daemon=True)

    def begin(self) -> None:
        """Starts what there is to check; nothing where that has begun."""
        if self._thread is not None and self._thread.ident is None:
            self._thread.start()

    def settle(self) -> None:
        """Waits for the verdict. Raises BundleError for a damaged blob."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.refuse()

    def refuse(self) -> None:
        """Raises BundleError where a blob has been found damaged."""
        if self._fault is not None:
            raise self._fault

    def _check(self) -> None:
        try:
            for blob in self._bundle.index.weights.blobs:
                self._bundle.check(blob.digest)
        except AotError as fault:
            self._fault = fault
        else:
            verified.remember(self._bundle.path, self._bundle.index.weights)
