"""Images: pixels in (B, C, H, W). Import what is needed from the submodules; this file imports nothing."""
