"""What a sharpness metric is asked to predict: error, gap, calibration, confidence."""
