# Wait until the role that a standby streams by has its new password, and then have the passfile made, at once, whatever has
# become of the run that began this. A standby that connects within these some 20 ms is refused, and comes again. As long as
# the former password lets in the new one is not tried: the server would log that.
keep() {
  passline replicator "$2" >"$1"
  chown postgres "$1"
}
lets_in() { as_postgres env PGOPTIONS="$session_options" psql -XAtqw "$1" -c IDENTIFY_SYSTEM >/dev/null 2>&1 </dev/null; }
keep /run/former.passfile "$former"
keep /run/new.passfile "$password"
[ -z "$former" ] || lets_in "$by_former" || lets_in "$by_new" ||
  fail 77 "by neither password does $at let the role replicator in"
end=$(($(date +%s) + seconds))
echo armed
until ! lets_in "$by_former" && lets_in "$by_new"; do
  if [ "$(date +%s)" -ge "$end" ]; then
    if lets_in "$by_new"; then break; fi  # a rule that trusts anybody takes either
    exit 75
  fi
  sleep 0.02
done
