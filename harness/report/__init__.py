"""What is shown of a run: tables, charts, the HTML report, exports."""
