"""What stands behind `adapt` and `impute`: measured spots, empirical Bayes, kriging. Arrays in, arrays out."""
