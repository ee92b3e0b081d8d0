"""The machine's read bandwidth: `python -m aot.bench.bandwidth` prints {"bandwidth": bytes a second}.

The best of several passes in which one thread for each core reads its part of an array that no cache holds.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BYTES = 1 << 30
_PASSES = 10


def measure_bandwidth() -> float:
    """Bytes a second."""
    threads = len(os.sched_getaffinity(0))
    parts = [np.ones(BYTES // 8 // threads, np.int64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return max(_pass(pool, parts) for _ in range(_PASSES))


def _pass(pool: ThreadPoolExecutor, parts: "list[np.ndarray[tuple[int], np.dtype[np.int64]]]") -> float:
    before = time.perf_counter()
    list(pool.map(np.bitwise_or.reduce, parts))  # the cheapest of numpy's reductions: it waits for memory alone
    return sum(part.nbytes for part in parts) / (time.perf_counter() - before)


if __name__ == "__main__":
    print(json.dumps({"bandwidth": measure_bandwidth()}))
