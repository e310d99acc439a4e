"""The noise floor of a host: how far speed figures of one and the same model differ when nothing about it changed."""

from __future__ import annotations

from runner.contract import Base, ExecutorName, Window

SCHEMA_VERSION = 1


class Calibration(Base, frozen=True, kw_only=True):
    """Smaller differences than the three floors, as shares (0.021 is 2.1 %), are noise on this host. `when`: Unix
    seconds."""

    schema_version: int = SCHEMA_VERSION
    hostname_hash: str | None
    cpu_model: str | None
    executor: ExecutorName
    threads: int
    when: float
    windows: tuple[Window, ...]
    latency_p50: float
    latency_p99: float
    throughput: float
