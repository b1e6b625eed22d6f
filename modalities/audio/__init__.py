"""Audio: waveforms in (B, 1, L). Import what is needed from the submodules; this file imports nothing."""
