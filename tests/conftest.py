"""Fixtures that several folders of tests use."""

from __future__ import annotations

from tests.docker import cpu_image, docker_client

__all__ = ["cpu_image", "docker_client"]
