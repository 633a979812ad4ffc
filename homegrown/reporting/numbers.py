"""Figures as people read them: large numbers, spans of time."""

_SCALES = ((1e12, " T"), (1e9, " B"), (1e6, " M"))


def count(number: float) -> str:
    """Write a large number in three digits: 4.19 M, 2.21 B."""
    for scale, name in _SCALES:
        if number >= scale:
            return f"{number / scale:.3g}{name}"
    return f"{number:,.0f}"


def span(seconds: float) -> str:
    """Write a time span: 42 s, 3 min 20 s, 5 h 12 min, 12 days, 3.1 years."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if seconds < 60:
        return f"{seconds:.2g} s"
    if not hours:
        return f"{minutes} min {rest:02d} s"
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours / 24:.0f} days" if hours < 24 * 730 else f"{hours / 24 / 365.25:.3g} years"
