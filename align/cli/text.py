"""Numbers and times as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import indent


def number(value: float) -> str:
    """Three significant digits; whole numbers as they are.

    >>> number(0.61234), number(12000.0), number(3.0e-5)
    ('0.612', '12,000', '3e-05')
    """
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def indented(said: str) -> str:
    """A text whose further lines stand to the right of where its first one begins.

    >>> print(indented("One.\\nTwo."))
    One.
        Two.
    """
    return indent(said.strip(), "    ").strip()


def short(value: float) -> str:
    """A count with a suffix.

    >>> short(950), short(5120), short(3_400_000)
    ('950', '5.1k', '3.4M')
    """
    for unit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.1f}{suffix}"
    return f"{value:.0f}"


def size(count: float) -> str:
    """Bytes.

    >>> size(512), size(4_200_000)
    ('512 B', '4.2 MB')
    """
    for unit, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {suffix}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Time in its two largest units.

    >>> duration(7.4), duration(192), duration(3900)
    ('7s', '3m 12s', '1h 05m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def metrics(numbers: Mapping[str, float], limit: int = 4) -> str:
    """The first few metrics on one line; those of one among several policies, `sft/length`, belong in a table.

    >>> metrics({"loss": 0.61234, "tokens_seen": 12000, "bytes": 4_200_000})
    'loss 0.612  tokens seen 12,000  bytes 4.2 MB'
    """
    only = numbers.get("reward")  # where it has one part, that says the same again
    repeated = {name for name, value in numbers.items() if name.startswith("reward_") and value == only}
    shown = {name: value for name, value in numbers.items() if "/" not in name and name not in repeated}
    said = {name: size(value) if name.endswith("bytes") else number(value) for name, value in shown.items()}
    return "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in list(said.items())[:limit])


def place(path: Path | str) -> str:
    """A path relative to the working directory where it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def joined(address: str) -> str:
    """An address as one name for a folder.

    >>> joined("quickstart/result"), joined("../data/pairs.jsonl")
    ('quickstart-result', 'data-pairs.jsonl')
    """
    return "-".join(part for part in Path(address).parts if part not in ("/", ".", ".."))
