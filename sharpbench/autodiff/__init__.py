"""Derivatives of networks: curvature operators, eigenvalues, traces, directional derivatives."""
