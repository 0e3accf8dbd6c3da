"""Measurement: masks in, phase fractions, sizes and thicknesses with their uncertainty out."""
