"""Predict spots partition by partition, on one machine or on a dask cluster, into memory or a store."""
