"""Domain-adaptive semantic segmentation with Pixel-Level Cycle Association (Kang et al., NeurIPS 2020)."""
