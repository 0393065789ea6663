"""Login side of jobs: what to run, where it runs, how it stands.

A map for reading; an arrow means *calls*. Each file says the rest itself.

* ``launcher`` is the interface, ``plan`` what it takes. ``local`` runs processes here;
  ``slurm_launcher`` writes into the ``ledger`` and waits: ``background`` (a thread) ->
  ``reconciler`` -> all below, if ``leader`` lets it. What these share is ``desk``.
* In: ``submitting`` -> ``limits`` (what Slurm does not take now), ``batches`` (what goes together)
  -> ``script``.
* Slurm's word: ``calls`` (paid for from ``bucket``, when ``agenda`` says so; what others call is
  paid by ``charging``) -> ``commands`` -> ``parsing`` -> *sightings*, the values. The node's word:
  ``watching`` -> ``evidence``, which reads the *signs* in the run directory
  (``tasks.runtime.signs``).
* Both: ``doubts`` (was it accepted, is it there twice?), then ``following`` -> ``judgement`` (the
  table: both words -> a verdict; pure) -> ``concluding`` -> ``failures`` (again, or not; pure) and
  ``diagnosis`` (the end in words; pure); ``losing`` sees to nodes that were lost under jobs which
  Slurm queues again. ``cancelling`` carries out wishes, ``costing`` -> ``accounting`` the bills.
* Asked by people: ``explaining`` (``watershed why``), ``describing``, ``waiting`` (why it waits);
  ``adopting``; before anything runs ``preflight`` and ``ceiling`` (what it costs at most).
"""
