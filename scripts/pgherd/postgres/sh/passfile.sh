# The passfile for streaming from another node; $password was set before.
chown postgres:postgres /etc/pgherd
chmod 0700 /etc/pgherd
printf '*:*:*:replicator:%s\n' "$(printf %s "$password" | sed 's/[\\:]/\\&/g')" | lay /etc/pgherd/passfile
