"""Which genes can be predicted from the image, estimated before a network is trained."""
