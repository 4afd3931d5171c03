# unfinished MARK: did a run of ours set about filling this very directory, and no server ran on it?
unfinished() {
  [ -s "/etc/pgherd/$1" ] && [ "$(cat "/etc/pgherd/$1")" = "$(this_directory 2>/dev/null)" ] &&
    [ ! -e "$PGDATA/postmaster.opts" ]
}
