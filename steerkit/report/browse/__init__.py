"""A page to browse the units, latents and features of a model: what each one fires on, in texts."""

from steerkit.report.browse.features import Column, Feature, Shown
from steerkit.report.browse.page import write_browser

__all__ = ["Column", "Feature", "Shown", "write_browser"]
