"""What the processor says that it has used, where it says so."""

from __future__ import annotations

from pathlib import Path

COUNTERS = Path("/sys/class/powercap")


class Energy:
    """A reader of the packages' energy counters (RAPL), which Linux shows under powercap."""

    def __init__(self, folder: Path = COUNTERS) -> None:
        # Only whole packages, "intel-rapl:0": their parts, "intel-rapl:0:0", are counted in them.
        zones = [zone for zone in folder.glob("*:*") if zone.name.count(":") == 1]
        self._zones = {zone: limit for zone in zones if (limit := _microjoules(zone, "max_range"))}
        self.readable = bool(self._zones) and self.read() is not None

    def read(self) -> tuple[int, ...] | None:
        """Return each counter in microjoules; None where one cannot be read."""
        values = [_microjoules(zone, "energy_uj") for zone in self._zones]
        return tuple(v for v in values if v is not None) if None not in values else None

    def joules(self, before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> float | None:
        """Return what was used between two readings; counters begin again at their range."""
        if not self.readable or before is None or after is None:
            return None
        ranges = self._zones.values()
        return sum((b - a) % r for a, b, r in zip(before, after, ranges, strict=True)) / 1e6


def _microjoules(zone: Path, name: str) -> int | None:
    try:
        return int((zone / name.replace("max_range", "max_energy_range_uj")).read_text())
    except (OSError, ValueError):
        return None
