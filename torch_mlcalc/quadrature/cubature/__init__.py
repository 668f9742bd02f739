"""Integrals over the unit cube in many dimensions."""
