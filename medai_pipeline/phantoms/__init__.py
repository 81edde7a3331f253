"""Synthetic studies with known findings and planted identities. Nothing here is anyone's data."""
