# The rules for replication. A line with $gateway stands once for each gateway of this network;
# the kernel's tables tell them (in /proc/net/route the address is hexadecimal, last byte first).
gateways() {
  awk '$2 == "00000000" && $3 != "00000000" { print $3 }' /proc/net/route |
    sed 's/\(..\)\(..\)\(..\)\(..\)/0x\4 0x\3 0x\2 0x\1/' |
    while read -r a b c d; do printf '%d.%d.%d.%d/32\n' "$a" "$b" "$c" "$d"; done
  none=00000000000000000000000000000000
  awk -v none=$none '$1 == none && $2 == "00" && $5 != none { print $5 }' /proc/net/ipv6_route 2>/dev/null |
    sed 's/..../&:/g; s/:$/\/128/'
}
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
printf '%s\n' "$rules" | expand | block "$PGDATA/pg_hba.conf" replication
