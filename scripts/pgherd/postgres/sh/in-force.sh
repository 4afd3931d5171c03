# A change of passwords was cut short, to $replacing. Does the role have that already, as far as this server knows?
if ! logs_in replicator "$password" >/dev/null && logs_in replicator "$replacing" >/dev/null; then
  password=$replacing
  echo 'replaced replicator'
fi
