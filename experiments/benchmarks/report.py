"""The results as text."""

from typing import Any

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
HIDDEN = {"case", "method", "seconds", "unit", "note"}


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(0.01234)
    '12.3 ms'
    """
    scale, unit = next(((s, u) for s, u in UNITS if abs(seconds) >= s), UNITS[-1])
    return f"{seconds / scale:.3g} {unit}"


def columns(rows: list[list[str]]) -> str:
    """Rows of words with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(w.ljust(n) for w, n in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * n for n in widths), *lines[1:]])


def table(benchmarks: dict[str, Any]) -> str:
    """One line a row: the median, the quartiles and the least, compilation apart, and what else is known."""
    rows = [["case", "method", "median", "quartiles", "least", "per", "compile", "remarks"]]
    for name, benchmark in benchmarks.items():
        if "failed" in benchmark:
            rows.append([name, "", "", "", "", "", "", benchmark["failed"]])
        for row in benchmark.get("rows", ()):
            s = row["seconds"]
            times = [""] * 5
            if s is not None:
                quartiles = f"{duration(s['lower_quartile'])} .. {duration(s['upper_quartile'])}"
                unit = row.get("unit", "call")
                times = [duration(s["median"]), quartiles, duration(s["least"]), unit, duration(s["compile"])]
            other = [f"{k} {_number(v)}" for k, v in row.items() if k not in HIDDEN and v is not None]
            rows.append(
                [row["case"], row["method"], *times, "; ".join([*other, row.get("note", "")]).strip("; ")]
            )
    return columns(rows)


def requirements(benchmarks: dict[str, Any]) -> str:
    """Requirement, measured, met or not."""
    rows = [["requirement", "bar", "measured", "met"]]
    for benchmark in benchmarks.values():
        for entry in benchmark.get("requirements", ()):
            bar = f"{'>=' if entry['at_least'] else '<='} {entry['bar']:g}"
            measured = "" if entry["measured"] is None else _number(entry["measured"])
            met = {None: entry["note"] or "not measured", True: "yes", False: "NO"}[entry["met"]]
            rows.append([entry["requirement"], bar, measured, met])
    return columns(rows) if len(rows) > 1 else ""


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
