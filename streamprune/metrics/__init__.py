"""What an answer cost: operations and bytes, counted rather than guessed."""
