"""Login side: journals to MLflow, and what they say: rates, tables, figures, reports.

How to compare runs in MLflow (3.17): every journal line carries ``time/virtual_s`` beside the other
metrics, at the same step. Open the experiment, expand the study's run (child runs are folded, and
missing from charts until then), and choose the chart view. A chart's x-axis is the step, which is
the round, until its settings (or, for all charts at once, the settings button above them) say
X-axis: Metric, ``time/virtual_s``; MLflow then pairs both metrics by their step. Group runs by the
tags ``axis.*``, one for each axis of the grid.
"""
