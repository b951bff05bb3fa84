"""Seeds derived from what they are for, so that random numbers do not depend on who draws them or when."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: object) -> int:
    """A seed of 63 bits from anything with a stable `repr`; the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
