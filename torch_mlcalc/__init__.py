"""Calculus for PyTorch training: exact losses, a hand-written SGD, integrals."""
