#> /etc/pgherd/passfile: *:*:*:replicator:…
# The passfile for streaming from another node; $password was set before. Where a change of passwords was cut short, one
# that has the new one, $replacing, keeps it: the role has it already.
if [ -n "${replacing-}" ] && in_passfile "$replacing"; then password=$replacing; fi
chown postgres:postgres /etc/pgherd
chmod 0700 /etc/pgherd
passline replicator "$password" | lay /etc/pgherd/passfile
