"""Setup of an arm or a leader: connected devices, ids of the servos, calibration and its check."""
