"""Token buckets: how often a key may ask, and how often an address may be wrong."""

from __future__ import annotations

import time
from collections import OrderedDict

__all__ = ["Bucket", "Failures"]


class Bucket:
    """A budget of requests that fills up again.

    Parameters
    ----------
    rate : float
        Requests per second that are given back.
    burst : float
        Requests that a full bucket holds; never fewer than one.
    """

    __slots__ = ("_burst", "_left", "_rate", "_then")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._left = self._burst
        self._then = time.monotonic()

    def take(self, now: float) -> float:
        """Take one request out at a time of the monotonic clock.

        Returns
        -------
        float
            0 if there was one, else the seconds until there will be.
        """
        left = self._left + (now - self._then) * self._rate
        self._then = now
        if left > self._burst:
            left = self._burst
        if left >= 1.0:
            self._left = left - 1.0
            return 0.0
        self._left = left
        return (1.0 - left) / self._rate


class Failures:
    """A bucket for every address that sent a wrong key lately.

    Parameters
    ----------
    rate, burst : float
        Of each address.
    most : int
        Addresses that are remembered; the one that failed longest ago goes first.
    """

    def __init__(self, rate: float = 5.0, burst: float = 20.0, most: int = 10_000) -> None:
        self._rate, self._burst, self._most = rate, burst, most
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, address: str) -> float:
        """Count one failure, see `Bucket.take`."""
        bucket = self._buckets.get(address)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._buckets.popitem(last=False)
            bucket = self._buckets[address] = Bucket(self._rate, self._burst)
        else:
            self._buckets.move_to_end(address)
        return bucket.take(time.monotonic())
