"""SpatialData objects as slides: what they must hold, and what is read of them."""
