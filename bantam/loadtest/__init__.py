"""Latency and throughput of a served classifier, as its users feel them.

Latency counts from the moment at which a request was *meant* to be sent. A tester that waits for a slow answer before
it sends the next request leaves out all those that would have suffered meanwhile ("coordinated omission"; Tene, "How
NOT to Measure Latency", 2013). In an open loop they are sent all the same.

:mod:`~bantam.loadtest.open_loop` and :mod:`~bantam.loadtest.closed_loop` send and time, with any callable;
:mod:`~bantam.loadtest.kserve` is one for any server of the KServe v2 protocol; :mod:`~bantam.loadtest.plan` says what a
test is to do, and :mod:`~bantam.loadtest.processes` spreads it over processes; :mod:`~bantam.loadtest.search` finds the
highest rate within an objective; :mod:`~bantam.loadtest.schema` is what is kept of it all.
"""
