# this_directory: what tells the data directory from another that is mounted in its place later
this_directory() { stat -c %d:%i "$PGDATA"; }

# unfinished MARK: did a run of ours begin to fill this very directory, and no server ever ran on it?
unfinished() {
  [ "$(cat "/etc/pgherd/$1" 2>/dev/null)" = "$(this_directory)" ] && [ ! -e "$PGDATA/postmaster.opts" ]
}
