# Is the passfile what it ought to be? The server cannot write there itself.
printf '*:*:*:replicator:%s\n' "$(printf %s "$password" | sed 's/[\\:]/\\&/g')" |
  cmp -s - /etc/pgherd/passfile || echo 'stale passfile'
