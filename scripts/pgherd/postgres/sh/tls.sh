#> /etc/pgherd/server.pem, /etc/pgherd/ca.crt: key and certificates
# Key and certificate of the server, in one file each, so that one rename brings both; and what is trusted.
printf '%s\n' "$server_pem" | lay /etc/pgherd/server.pem
printf '%s\n' "$ca_pem" | lay /etc/pgherd/ca.crt
[ -z "$client_pem" ] || printf '%s\n' "$client_pem" | lay /etc/pgherd/client.pem
