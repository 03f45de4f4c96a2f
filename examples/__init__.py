"""Programs to read, which use fastnst as a library."""
