rm -f /etc/pgherd/seeding
touch /etc/pgherd/initdb.done
