"""``bantam optimize``: from a request to a report and a published model."""

from bantam import telemetry

telemetry.off()  # also in the processes that variants are measured in
