"""What a person sees: tables now, pictures and pages later."""
