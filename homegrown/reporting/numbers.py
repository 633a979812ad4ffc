"""Numbers, sizes and time spans as people read them: in the terminal, in reports and in the Prefect UI."""

_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_DAY, _YEAR = 86400, 365.25 * 86400


def shown(value: float | str | None, digits: int = 4) -> str:
    """Format a figure: thousands separated, `digits` significant digits, a true minus sign; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        text = f"{value:,}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    return text.replace("-", "−", 1) if value < 0 else text


def quantity(number: int, unit: str) -> str:
    """Format a number of things, named in the plural: 1,234 documents, 1 document."""
    return f"{shown(number)} {unit.removesuffix('s') if number == 1 else unit}"


def count(number: float) -> str:
    """Format a large number in three digits: 4.19 M, 2.21 B."""
    return _scaled(number, _COUNTS) or f"{number:,.0f}"


def file_size(size: float) -> str:
    """Format a number of bytes in three digits: 83 B, 1.8 kB, 2.84 MB, 1.2 GB."""
    return _scaled(size, _BYTES) or f"{size:.0f} B"


def share(part: float, total: float) -> str:
    """Format a part of a total as a percentage; 0% of an empty total."""
    return f"{part / total:.1%}" if total else "0%"


def duration(seconds: float) -> str:
    """Format a time span: 12 ms, 4.2 s, 42 s, 3 min 20 s, 5 h 12 min, 2.1 days, 12 days, 3.1 years."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms" if seconds > 0 else "0 s"
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    if seconds < 2 * _DAY:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes:02d} min"
    if seconds < 9.95 * _DAY:
        return f"{seconds / _DAY:.2g} days"
    return f"{seconds / _DAY:.0f} days" if seconds < 2 * _YEAR else f"{seconds / _YEAR:.3g} years"


def _scaled(number: float, scales: tuple[tuple[float, str], ...]) -> str | None:
    """Return three digits and the largest unit of which there is one; None below the smallest unit."""
    for scale, unit in scales:
        if number >= 0.9995 * scale:  # three digits of it are 1.00
            return f"{number / scale:,.0f} {unit}" if number >= 999.5 * scale else f"{number / scale:.3g} {unit}"
    return None
