"""From probabilities to a priority with reasons: findings and codes, and the rules as a table."""
