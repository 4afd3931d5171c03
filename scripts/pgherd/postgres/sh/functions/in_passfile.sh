# in_passfile PASSWORD: is it the one in the passfile that the server streams by?
in_passfile() {
  passline replicator "$1" | cmp -s - /etc/pgherd/passfile
}
