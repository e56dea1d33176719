"""Limit the threads of scikit-learn's solvers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_WORTH_THREADS = 200_000_000  # multiplications: about 20 ms on one core, compared with which waiting is short


@contextmanager
def threads_for(work: int) -> Iterator[None]:
    """Use one BLAS thread in this block if the problem is small.

    L-BFGS makes thousands of small matrix products. BLAS threads wait actively for each other after each one. Where another process
    uses the cores, the waiting costs up to 30 times the CPU time of the products (benchmarks/linear_probe.py).

    Args:
        work: multiplications of one product: rows x features x classes.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1 if work < _WORTH_THREADS else None, user_api="blas"):
        yield
