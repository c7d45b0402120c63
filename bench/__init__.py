"""Benchmarks of headflow: ``python -m bench`` runs all, ``python -m bench speed`` one part. See bench/__main__.py."""
