"""What must hold between two stages, as Great Expectations suites. A failed blocking check stops its study alone."""
