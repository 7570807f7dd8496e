"""``bantam optimize``: from a request to a report and a published model."""
