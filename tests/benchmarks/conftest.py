"""Runs that several tests read; a test that damages one copies it first."""

from __future__ import annotations

import pytest
from bench_fakes import shapes_run

from diffdpo.benchmarks.results import BenchRun


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> BenchRun:
    return shapes_run(tmp_path_factory.mktemp("runs") / "before", 0.3)


@pytest.fixture(scope="session")
def after(tmp_path_factory: pytest.TempPathFactory) -> BenchRun:
    return shapes_run(tmp_path_factory.mktemp("runs") / "after", 0.8)
