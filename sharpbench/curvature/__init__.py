"""Curvature without its matrix: operators, eigenvalues, traces, and the checks that they are right."""
