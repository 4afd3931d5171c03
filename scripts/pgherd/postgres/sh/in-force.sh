# A change of passwords was cut short, to $replacing. Does the role $whose have that already, as far as this server knows?
whose=${whose:-replicator}
if ! logs_in "$whose" "$password" >/dev/null && logs_in "$whose" "$replacing" >/dev/null; then
  password=$replacing
  echo "replaced $whose"
fi
