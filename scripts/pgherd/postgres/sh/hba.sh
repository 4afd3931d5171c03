#> $PGDATA/pg_hba.conf:
#>   $first_rules
#>   $rules
# The rules for replication. A line with $gateway stands once for each gateway of this network.
# A line with $elsewhere stands once for each address of the nodes on other hosts; a name for all of its addresses, since
# PostgreSQL takes a name only if the address leads back to it.
others() {
  for other in $elsewhere; do
    case $other in
      *:*) echo "$other/128" ;;
      *[!0-9.]*) getent ahosts "$other" | awk '{ print $1 ($1 ~ /:/ ? "/128" : "/32") }' | sort -u ;;
      *) echo "$other/32" ;;
    esac
  done
}
for other in $elsewhere; do
  case $other in *:*) ;; *[!0-9.]*)
    getent ahosts "$other" >/dev/null || { echo "$other cannot be resolved in this container: give the node an IP address" >&2; exit 1; } ;;
  esac
done
each() { while read -r address; do echo "${rule%%"$1"*}$address${rule#*"$1"}"; done; }
expand() {
  while IFS= read -r rule; do
    case $rule in
      *'$gateway'*) gateways | each '$gateway' ;;
      *'$elsewhere'*) others | each '$elsewhere' ;;
      *) printf '%s\n' "$rule" ;;
    esac
  done
}
former_rules=$(cat "$PGDATA/pg_hba.conf"; echo .)  # with its last lines' ends
# Before all others, as the first match decides: who comes without TLS. Where TLS was given up the block stays, empty.
if [ -n "${first_rules-}" ] || grep -qxF '# BEGIN pgherd tls' "$PGDATA/pg_hba.conf"; then
  printf '%s\n' "${first_rules-}" | block "$PGDATA/pg_hba.conf" tls top
fi
printf '%s\n' "$rules" | expand | block "$PGDATA/pg_hba.conf" replication
