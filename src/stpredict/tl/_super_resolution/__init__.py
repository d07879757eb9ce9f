"""Super-resolution: expression of superpixels below spot size, by weak supervision with the means of spots."""
