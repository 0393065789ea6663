"""Login side: journals to MLflow, and what they say: rates, tables, figures, reports.

How to compare runs in MLflow (3.17): open the experiment, expand the study's run (child runs are
folded, and missing from charts until then) and choose the chart view. The x-axis is the step, which
is the round. For virtual time choose Metric, ``time/virtual_s`` as the X-axis, of one chart in its
own settings or of all under "Configure charts": MLflow pairs two metrics by their steps, and every
journal line has this one. Group runs by the tags ``axis.*``, one for each axis of the grid.
"""
