"""What a run measured: report.json, its table, its page, its model card, and two runs side by side."""
