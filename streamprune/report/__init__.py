"""What a person sees: tables, plots, records, and the page that explains an answer."""
