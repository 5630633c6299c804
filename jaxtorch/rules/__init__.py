"""What each ATen overload means under each transform: one file per family."""
