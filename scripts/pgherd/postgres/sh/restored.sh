# Which copy was put back here: its name, unless something else lies here by now, or a server ran on it since.
[ ! -s /etc/pgherd/restored ] || {
  read -r where name </etc/pgherd/restored
  [ "$where" != "$(this_directory)" ] || [ "$PGDATA/postmaster.opts" -nt /etc/pgherd/restored ] || echo "restored=$name"
}
