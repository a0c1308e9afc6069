"""One throw-away cluster for all tests here; without Slurm they are skipped."""

import pytest
from slurm import Cluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running
