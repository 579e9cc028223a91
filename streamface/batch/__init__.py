"""Many files on many workers, and one long file on many."""
