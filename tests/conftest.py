"""Shared by every test: hypothesis's budget, and readable assertions in the public testing kit."""

import os

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("discovery.testing")

# No deadline: a busy machine is no defect. In CI the examples are the same on every run, so that a red run stays red.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
