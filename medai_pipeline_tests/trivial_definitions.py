"""One asset: what a code server serves in tests of the stack."""

import dagster as dg


@dg.asset
def answer() -> int:
    return 42


defs = dg.Definitions(assets=[answer])
