//! Tile, stage and raster choices of kernels, apart from the mechanism that uses them.
