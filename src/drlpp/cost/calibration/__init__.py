"""Costs from what a run measured: a fit that is drawn towards the database, with its uncertainty."""

from drlpp.cost.calibration.calibrated import calibrated_plan
from drlpp.cost.calibration.fit import Calibration, Factor, calibrate
from drlpp.cost.calibration.measured import Measurements, measurements
from drlpp.cost.calibration.summary import summary

__all__ = ["Calibration", "Factor", "Measurements", "calibrate", "calibrated_plan", "measurements", "summary"]
