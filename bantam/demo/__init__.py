"""The demo: a page that shows a served model beside its baseline, over :mod:`bantam.client.classifier` only.

:mod:`~bantam.demo.served` asks the two models; :mod:`~bantam.demo.batch` scores files; :mod:`~bantam.demo.latency`
measures both under load; :mod:`~bantam.demo.tabs` and :mod:`~bantam.demo.page` put them on a Gradio page;
:mod:`~bantam.demo.fragments` is what of it is HTML of ours. It holds no model and starts no server: what it shows
comes from the one at its address.
"""

import os

# Before Gradio is imported: it would report its use, and ask the network for its newest version.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
