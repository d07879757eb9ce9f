"""The trained predictor: members, files on disk, intervals, out-of-distribution detection and stain."""
