# gateways: those of this container's networks, each as an address with its length; the kernel's tables tell them (in
# /proc/net/route the address is hexadecimal, last byte first)
gateways() {
  awk '$2 == "00000000" && $3 != "00000000" { print $3 }' /proc/net/route |
    sed 's/\(..\)\(..\)\(..\)\(..\)/0x\4 0x\3 0x\2 0x\1/' |
    while read -r a b c d; do printf '%d.%d.%d.%d/32\n' "$a" "$b" "$c" "$d"; done
  none=00000000000000000000000000000000
  awk -v none=$none '$1 == none && $2 == "00" && $5 != none { print $5 }' /proc/net/ipv6_route 2>/dev/null |
    sed 's/..../&:/g; s/:$/\/128/'
}
