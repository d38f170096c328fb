"""Medication directions: a prescriber's shorthand becomes a patient's direction. Generated; not for medical use."""
