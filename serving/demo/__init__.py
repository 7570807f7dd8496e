"""The demo: a page that shows a served model beside its baseline, over :mod:`serving.client` only.

:mod:`~serving.demo.served` asks the two models; :mod:`~serving.demo.batch` scores files; :mod:`~serving.demo.latency`
measures both under load; :mod:`~serving.demo.page` puts them on a Gradio page; :mod:`~serving.demo.fragments` is what
of it is HTML of ours. It holds no model and starts no server: what it shows comes from the one at its address.
"""
