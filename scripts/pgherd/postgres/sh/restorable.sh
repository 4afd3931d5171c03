# Make a copy that was set aside ready to be put back, where it lies: cut short, it is still the same copy. The mark
# tells the next run that this very directory is $name, once it is back.
# Of a link itself the owner is set: where it leads may be nowhere, or somebody else's.
find "$PGDATA" ${tablespaces-} ! -user postgres -exec chown -h postgres:postgres {} +
chmod 0700 "$PGDATA"
rm -f /etc/pgherd/seeding /etc/pgherd/initdb.pending
printf '%s %s\n' "$(this_directory)" "$name" >/etc/pgherd/restored
