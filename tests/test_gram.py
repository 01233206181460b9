"""X Xᵀ or XᵀX in every shape, order and precision, by the kernel and by the BLAS."""

import numpy as np
import pytest

from fastlmm_vi.wide import storage
from fastlmm_vi.wide.storage import DenseFeatures


def check(X, *, threads=1, **options):
    n, p = X.shape
    wide = X.astype(np.float64)
    expected = wide @ wide.T if n < p else wide.T @ wide
    gram = DenseFeatures(X, **options).gram(threads)
    assert gram.dtype == np.float64
    assert gram.flags.f_contiguous
    single = X.dtype == np.float32 or "single_gram" in options
    # Errors of a few hundred float32 products, and of p float64 products, relative to the largest entry.
    atol = (4e-6 if single else 1e-14) * np.abs(expected).max()
    np.testing.assert_allclose(np.tril(gram), np.tril(expected), rtol=0, atol=atol)


# Tiles have 16 or 32 columns (12 or 24 without AVX-512) and 8 or 4 rows; panels are 256 columns deep.
@pytest.mark.parametrize("short", [*range(1, 35), 47, 48, 49, 63, 64, 65, 161, 331])
def test_every_number_of_rows(short):
    rng = np.random.default_rng(short)
    for long in (short + 1, 255, 256, 257, 700):
        X = rng.normal(size=(short, max(long, short + 1)))
        for order in "CF":
            check(np.asarray(X, order=order))
            check(np.asarray(X.T, order=order))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(40, 5000), (5000, 40), (70, 71)])
@pytest.mark.parametrize("by_kernel", [True, False])
def test_precisions_and_threads(shape, order, by_kernel, monkeypatch):
    monkeypatch.setattr(storage, "WIDE_MULTIPLY_ADD", by_kernel)
    X = np.asarray(np.random.default_rng(0).normal(size=shape), order=order)
    for threads in (1, 2, 3):
        check(X, threads=threads)
        check(X, threads=threads, single_gram=True)
        check(X.astype(np.float32), threads=threads)


def test_a_view_that_is_not_contiguous():
    check(np.random.default_rng(0).normal(size=(20, 100))[:, ::3])


def test_nan_is_seen():
    X = np.ones((40, 50))
    X[13, 17] = np.nan
    assert np.isnan(DenseFeatures(X).gram().trace())
