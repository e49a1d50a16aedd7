"""Strict tests: eight virtual devices, full float32 products, compilations shared."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# compiling is most of the suite's time, running what was compiled almost none
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest
import runtime_types

# before any module of the package is imported
runtime_types.install()

jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(autouse=True, scope="session")
def _compile_once(tmp_path_factory):
    """Tests that build the same step share its compilation, across workers too."""
    folder = tmp_path_factory.getbasetemp().parent / "omfa_compilation_cache"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """A file's compiled programs go with it: a worker that keeps all of them grows to 7 GB."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _quiet_progress(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
