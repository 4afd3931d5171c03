# this_directory: what tells the data directory from another in its place: where it is, when it was born
this_directory() { stat -c %d:%i:%W "$PGDATA"; }
