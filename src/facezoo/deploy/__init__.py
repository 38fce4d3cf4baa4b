"""From a trained network to one that runs elsewhere: batch norms folded, files for other runtimes, 8-bit integers."""

from __future__ import annotations

from facezoo.deploy.fusing import FusedFaceNetwork, FusedFeatureNetwork, fuse, remaining_norms

__all__ = ["FusedFaceNetwork", "FusedFeatureNetwork", "fuse", "remaining_norms"]
