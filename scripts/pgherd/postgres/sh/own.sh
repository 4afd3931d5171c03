# Where tablespaces lie is the server's own.
for place in $tablespaces; do
  chown postgres:postgres "$place"
  chmod 0700 "$place"
done
