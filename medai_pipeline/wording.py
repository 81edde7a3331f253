"""How a number is said to a person, everywhere the same. Knows nothing of this package."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share from 0 to 1 as whole percent. What rounds to none or to all is not said to be so: no model is ever certain."""
    return {"0%": "<1%", "100%": ">99%"}.get(text := f"{share:.0%}", text)
