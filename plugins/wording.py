"""Words that operations share."""


def duration(seconds: float) -> str:
    """ "3 h 5 min", "2 min 10 s" or "8 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if rest else f"{seconds:.1f} s"
