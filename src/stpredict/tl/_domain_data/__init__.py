"""What domains are found in, and where they are written."""
