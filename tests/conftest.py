"""Strict tests: eight virtual devices, full float32 products, compilations shared."""

import ctypes
import gc
import importlib.metadata
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# a hundred processes import the package, and each worker collects all test files
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# the workers share the cores; BLAS threads that wait for each other took nine tenths of a fit
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# compiling is most of the suite's time, running what was compiled almost none
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    # XLA ends the process on a flag that it does not know
    + " --xla_cpu_use_fusion_emitters=false"
    * (tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:3])) < (0, 11, 1)),
)

import jax
import pytest
import runtime_types
import slow_tests

# before any module of the package is imported
runtime_types.install()

from object_storage import gs, gs_server, s3_server, store  # noqa: E402, F401

jax.config.update("jax_default_matmul_precision", "highest")

# of a worker, whose compiled programs are let go beyond it
MOST_RESIDENT_BYTES = 1_800_000_000
# glibc's mallopt(3): XLA compiles in many threads, and each would keep freed memory of its own
M_ARENA_MAX = -8
if sys.platform == "linux":
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def pytest_collection_modifyitems(items):
    """Mark what `make test-fast` leaves out, and put the longest files first."""
    for item in items:
        if slow_tests.is_slow(item.path, item.function):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: slow_tests.place_of(item.path))


def pytest_collection_finish():
    """Leave what was imported out of garbage collection, which is rare: a quarter of a trace."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _compile_once(tmp_path_factory):
    """Tests that build the same step share its compilation, across workers and processes too."""
    folder = tmp_path_factory.getbasetemp().parent / "omfa_compilation_cache"
    for name, value in {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(autouse=True)
def _forget_programs():
    """Keep a worker below 3 GB: one that keeps every program it compiled grows to 7 GB.

    Nothing is forgotten before that, for what was traced and compiled for one file often serves
    the next.
    """
    yield
    if resident_bytes() > MOST_RESIDENT_BYTES:
        jax.clear_caches()
        if sys.platform == "linux":
            # glibc keeps freed memory otherwise
            ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Return this process's memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.fixture(autouse=True)
def _quiet_progress(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
