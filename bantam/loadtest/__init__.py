"""Latency and throughput of a served classifier, as its users feel them.

Latency counts from the moment at which a request was *meant* to be sent. A tester that waits for a slow answer before
it sends the next request leaves out all those that would have suffered meanwhile ("coordinated omission"; Tene, "How
NOT to Measure Latency", 2013). In an open loop they are sent all the same.

:mod:`~bantam.loadtest.loop` sends and times, with any callable; :mod:`~bantam.loadtest.kserve` is one for any server
of the KServe v2 protocol; :mod:`~bantam.loadtest.processes` spreads the sending over processes;
:mod:`~bantam.loadtest.search` finds the highest rate within an objective; :mod:`~bantam.loadtest.report` keeps it.
"""
