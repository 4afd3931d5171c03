touch /etc/pgherd/initdb.done
