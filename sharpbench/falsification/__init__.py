"""What the literature says of sharpness, put to controlled experiments with the sign stated first.

Claims as data in `claims`, their figures by `analysis.measures`, and a section of the report.
"""
