"""How often one sender may ask: a bucket of tokens each, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict

SENDERS = 10_000  # remembered at most; who was silent longest is forgotten, and has a full bucket again


class Rates:
    """A bucket that fills at a rate and holds one second's worth, at least one.

    Parameters
    ----------
    per_second
        Requests of one sender in the long run.
    senders
        Bound on those remembered.
    """

    def __init__(self, per_second: float, senders: int = SENDERS) -> None:
        self._per_second = per_second
        self._full = max(1.0, per_second)
        self._senders = senders
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # sender -> (left, since)

    def wait(self, sender: str, now: float) -> float:
        """Take one request from a sender's bucket; returns 0, or the seconds until there is one.

        Parameters
        ----------
        now
            A monotonic clock's seconds.
        """
        left, since = self._buckets.pop(sender, (self._full, now))
        left = min(self._full, left + (now - since) * self._per_second)
        refused = left < 1.0
        self._buckets[sender] = (left if refused else left - 1.0, now)
        if len(self._buckets) > self._senders:
            self._buckets.popitem(last=False)
        return (1.0 - left) / self._per_second if refused else 0.0

    def __len__(self) -> int:
        """How many senders are remembered."""
        return len(self._buckets)
