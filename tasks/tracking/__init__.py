"""Login side: journals to MLflow, and what they say: rates, tables, figures, reports, comparisons.

How to compare runs in MLflow (3.17): open one of the views that a study's description links to, by
step, by other clocks (``views``), or over the grid. In a chart view of one's own, child runs are
folded, and missing from charts, until the study's run is expanded or runs are grouped by a tag
``axis.*``. The x-axis is the step, which is the round. For virtual time choose Metric,
``time/virtual_s`` as the X-axis: MLflow pairs two metrics by their steps, and every journal line
has this one. Without MLflow: ``comparison``, from the run directories alone.
"""
