"""Jobs: processes over REST, truthfully. A job can read whatever the daemon's user can."""
