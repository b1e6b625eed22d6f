"""3D molecules: atoms in (B, N, 3 + elements). Import what is needed from the submodules; this file imports nothing."""
