"""Experiments of no paper: any label, any fitter, any score."""
