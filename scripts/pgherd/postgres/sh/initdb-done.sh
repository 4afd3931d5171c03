mv /etc/pgherd/initdb.pending /etc/pgherd/initdb.done
