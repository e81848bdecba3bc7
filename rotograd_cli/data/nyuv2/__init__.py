"""NYUv2: segmentation, depth and surface normals of indoor scenes."""
