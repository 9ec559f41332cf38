"""One hypothesis profile: a busy machine must not fail a property for being slow."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("esgd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("esgd")
